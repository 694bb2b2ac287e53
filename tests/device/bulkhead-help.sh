#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# --help of bulkhead and its commands, the man pages and the keys of the JSON file name the same options.
. "${top_srcdir:?}/tests/support/tap.sh"
bulkhead=${top_builddir:?}/supervisor/bulkhead
page=$top_srcdir/docs/bulkhead.1
config=$top_srcdir/docs/bulkhead-config.5

"$bulkhead" run --help >"$tmp/help"
is "run --help: exit 0" $? 0
sed -n 's/^  --\([a-z-]*\).*/\1/p' "$tmp/help" | sort >"$tmp/options"
sed -n '/^\.SH OPTIONS/,/^\.SH COMMANDS/p' "$page" | grep '^\.B' | grep -oE '\\-\\-[a-z-]+' | head -100 | sed 's/\\-/-/g; s/^--//' |
	sort -u >"$tmp/page"
check "run --help and the man page name the same options" diff "$tmp/options" "$tmp/page"
check "there are options to compare" test "$(wc -l <"$tmp/options")" -ge 20
sed -n '/^\.SH KEYS/,/^\.SH EXAMPLE/p' "$config" | grep -A1 '^\.TP' | grep '^\.B' | grep -oE '[a-z-]{3,}' | sort >"$tmp/keys"
grep -vE '^(help|version|config)$' "$tmp/options" >"$tmp/wanted"
check "the JSON page names the same as keys" diff "$tmp/wanted" "$tmp/keys"
sed -n '/^\.nf/,/^\.fi/p' "$config" | grep -v '^\.' >"$tmp/example.json"
like "the example of the page is read to its end" "$("$bulkhead" run --config "$tmp/example.json" --kernel /nonexistent 2>&1)" \
	'^bulkhead: --kernel: "/nonexistent" can'

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

for command in "" ctl ps; do
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
check "... and there are five" test "$("$bulkhead" ctl --help | grep -cE '^  [a-z]')" -eq 5
like "--version" "$("$bulkhead" --version)" '^bulkhead [0-9]'
like "run --version" "$("$bulkhead" run --version)" '^bulkhead [0-9]'
for status in 0 1 2 3 4 5 6; do
	check "exit status $status is in the man page" awk -v s="$status" '/^\.SH EXIT/ { on = 1 } /^\.SH ENV/ { on = 0 } on && $0 == ".B " s { ok = 1 } END { exit !ok }' "$page"
done
if command -v man >/dev/null; then
	for p in "$page" "$config"; do
		is "$(basename "$p") has no mistakes" "$(LC_ALL=C.UTF-8 MANROFFSEQ='' MANWIDTH=80 man --warnings -E UTF-8 -l -Tutf8 -Z "$p" 2>&1 >/dev/null)" ""
	done
else
	skip "man pages have no mistakes" "no man"
fi
