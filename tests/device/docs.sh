#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# What the programs say of themselves is what the man pages say: options, keys of the JSON file, defaults, exit statuses;
# and the pages have no mistakes.
. "${top_srcdir:?}/tests/support/tap.sh"
bulkhead=${top_builddir:?}/supervisor/bulkhead
docs=$top_srcdir/docs

# same_options WHAT PAGE LEAST COMMAND...: every option of --help is in the page's OPTIONS and the reverse; both are left
# in $tmp/help and $tmp/options.
same_options() {
	local what=$1 page=$2 least=$3
	shift 3
	"$@" --help >"$tmp/help"
	is "$what --help: exit 0" $? 0
	sed -n 's/^  --\([a-z-]*\).*/\1/p' "$tmp/help" | sort >"$tmp/options"
	sed -n '/^\.SH OPTIONS/,/^\.SH [^O]/p' "$page" | grep -A1 '^\.TP' | grep -oE '\\-\\-[a-z-]+' | sed 's/\\-/-/g; s/^--//' |
		sort >"$tmp/page"
	check "$what --help and the man page name the same options" diff "$tmp/options" "$tmp/page"
	check "... and there are options to compare" test "$(wc -l <"$tmp/options")" -ge "$least"
	like "$what --version" "$("$@" --version)" "^${1##*/} [0-9]"
}
same_options blk-server "$docs/blk-server.8" 12 "$top_builddir/blk-server/blk-server"
same_options net-server "$docs/net-server.8" 20 "$top_builddir/net-server/net-server"
same_options net-user "$docs/net-user.8" 14 "$top_builddir/net-user/net-user"
same_options nbd-dial "$docs/nbd-dial.8" 7 "$top_builddir/nbd-dial/nbd-dial"
same_options window "$docs/window.8" 14 "$top_builddir/window/window"
same_options vmm-core "$docs/vmm-core.8" 12 "$top_builddir/vmm-core/vmm-core"
same_options "bulkhead run" "$docs/bulkhead.1" 20 "$bulkhead" run

is "bulkhead run --help has lines that can be read" "$("$bulkhead" run --help | awk 'length($0) > 120')" ""
like "... without losing any of what an option takes" "$("$bulkhead" run --help | tr -d '\n ')" \
	'--diskpath=FILE\|nbd=URI\[,reconnect=SECONDS\].*\|vhost-user=SOCKET\[,id=ID\]\[,restarts=\.\.\.\]\[,on-failure=\.\.\.\]adisk:'

synopsis=$(sed -n '/^\.SH SYNOPSIS/,/^\.SH DESC/p' "$docs/net-server.8" | sed 's/\\-/-/g')
others=$("$top_builddir/net-server/net-server" --socket "$tmp/none" 2>&1 | grep -oE -- '--[a-z-]+')
check "net-server says what may be behind a port" test "$(wc -w <<<"$others")" -ge 7
for word in $others; do
	like "... and the synopsis has $word" "$synopsis" "^(.*[^a-z-])?$word([^a-z-].*)?$"
done

page=$docs/bulkhead.1
config=$docs/bulkhead-config.5
sed -n '/^\.SH KEYS/,/^\.SH EXAMPLE/p' "$config" | grep -A1 '^\.TP' | grep '^\.B' | grep -oE '[a-z-]{3,}' | sort >"$tmp/keys"
grep -vE '^(help|version|config)$' "$tmp/options" >"$tmp/wanted"
check "the JSON page names the same as keys" diff "$tmp/wanted" "$tmp/keys"
sed -n '/^\.nf/,/^\.fi/p' "$config" | grep -v '^\.' >"$tmp/example.json"
like "the example of the page is read to its end" "$("$bulkhead" run --config "$tmp/example.json" --kernel /nonexistent 2>&1)" \
	'^bulkhead: --kernel: "/nonexistent" can'

# Every key that the parser knows of is in --help, in the page and in that of the JSON file.
while read -r option end; do
	keys=$("$bulkhead" run --kernel x --$option nothing=1 2>&1 | sed -n 's/.*allowed: //p' | tr -d ,)
	check "--$option has keys" test "$(wc -w <<<"$keys")" -ge 5
	help=$("$bulkhead" run --help | sed -n "/^  --$option /,/^  --/p" | tr -s ' \n' ' ')
	text=$(sed -n "/^\.BI.*\\\\-\\\\-$option /,/^\.$end/p" "$page" | sed 's/\\-/-/g; s/\\f[A-Z]//g')
	json=$(sed -n "/^\.B $option\$/,/^\.TP/p" "$config")
	for key in $keys; do
		like "--$option $key is in --help" "$help" "[^a-z-]$key([^a-z-]|$)"
		like "... in the page" "$text" "(^|[^a-z-])$key([^a-z-]|$)"
		like "... and in that of the JSON file" "$json" "(^|[^a-z-])$key([^a-z-]|$)"
	done
done <<'END'
disk RE
net RE
limit-group TP
END
like "--help tells all that --run-dir can be by itself" "$("$bulkhead" run --help)" \
	'default: /run/bulkhead \(root\), \$XDG_RUNTIME_DIR/bulkhead or /tmp/bulkhead-UID'

# Every option is known to the parser: without a value each one is missed by its name.
while read -r option; do
	case $option in help | version | test-devices) continue ;; esac
	like "--$option is known" "$("$bulkhead" run "--$option" 2>&1)" "^bulkhead: --$option: needs a value"
done <"$tmp/options"
# Every default that --help tells is in the page, near the option.
sed -n 's/^  --\([a-z-]*\).*/\1/p; s/.*(default: \(.*\))$/=\1/p' "$tmp/help" | awk '/^=/ { print o, substr($0, 2); next } { o = $0 }' |
	grep -vE '^(name|run-dir|cpu|test-devices|console) ' >"$tmp/defaults"
while read -r option value; do
	text=$(sed -n "/^\.B.*\\\\-\\\\-$option\b/,/^\.TP/p" "$page")
	like "the page tells the default of --$option" "$text" "$value"
done <"$tmp/defaults"

for command in "" ctl events ps adopt image trace; do
	# shellcheck disable=SC2086
	out=$("$bulkhead" $command --help)
	is "bulkhead $command --help: exit 0" $? 0
	for word in $(grep -oE '^  --[a-z-]+' <<<"$out"); do
		check "... $word is in the man page" grep -q -- "${word//-/\\\\-}\|\\\\-\\\\-${word#--}" "$page"
	done
done
for request in $("$bulkhead" ctl --help | sed -n 's/^  \([a-z][a-z-]*\) .*/\1/p'); do
	check "ctl $request is in the man page" grep -q "^\.B $request\$" "$page"
done
check "... and there are thirteen" test "$("$bulkhead" ctl --help | grep -cE '^  [a-z]')" -eq 13
like "--version" "$("$bulkhead" --version)" '^bulkhead [0-9]'
states=$(grep -ohE '(\[MACHINE_[A-Z_]+\] =|"state",|m->again \?) "[a-z]+"' "$top_srcdir"/supervisor/{machine,client}.c |
	sed 's/.*"\([a-z]*\)"$/\1/' | sort -u)
check "ps has states" test "$(wc -w <<<"$states")" -ge 8
text=$(sed -n '/^\.SH COMMANDS FOR/,/^\.TP/p' "$page" | grep -E '^\.BR? ')
for state in $states; do
	[ "$state" = ended ] || check "... $state is in the man page" grep -qE "^\.BR? $state( |$)" <<<"$text"
done
for status in 0 1 2 3 4 5 6; do
	check "exit status $status is in the man page" awk -v s="$status" '/^\.SH EXIT/ { on = 1 } /^\.SH ENV/ { on = 0 } on && $0 == ".B " s { ok = 1 } END { exit !ok }' "$page"
done
# The arguments of such a macro take turns at two fonts, with no space between: words of a sentence run together there.
is "no page goes on with its text in the line of a macro for words" \
	"$(grep -nE '^\.(BR|BI|RB|RI|IB|IR) ' "$docs"/*.[1-8] | sed 's/"[^"]*"/Q/g' | grep -E '[ )][a-z]+ +[a-z]+( |$)')" ""
if command -v man >/dev/null; then
	for p in "$docs"/*.[1-8]; do
		is "$(basename "$p") has no mistakes" "$(LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$p" 2>&1 >/dev/null)" ""
	done
else
	skip "man pages have no mistakes" "no man"
fi
