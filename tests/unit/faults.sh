#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every fault of docs/security.md has a test with its number in the name, in each file that its row names, or a reason why it can't
# apply; and no test has a number that is in no row.
. "${top_srcdir:?}/tests/support/tap.sh"
cd "$top_srcdir" || exit 99
doc=docs/security.md
last=74

# has FILE NUMBER: whether a test there has the number in its name, or the file has.
has() {
	local two
	two=$(printf %02d "$2")
	[[ $1 == */fault-$two-* ]] && [ -s "tests/$1" ] || grep -qE "(fault_|\bf)${two}_|[\"']fault $2[:,]" "tests/$1" 2>/dev/null
}

# The rows: | number | fault | files, or "can't apply: reason" |
sed -n '/^## Faults/,$s/^| \([0-9][0-9]*\) | \(.*\) | \(.*\) |$/\1|\2|\3/p' "$doc" >"$tmp/rows"
is "the rows have the numbers 1 to $last, each once" "$(sed 's/|.*//' "$tmp/rows" | tr '\n' ' ')" "$(seq -s ' ' 1 $last) "
while IFS='|' read -r number _; do
	row=$(grep "^$number|" "$tmp/rows")
	where=${row##*|} bad=
	case $where in
	"can't apply: "?*) ok "fault $number can't apply" && continue ;;
	esac
	for file in ${where//,/ }; do
		has "$file" "$number" || bad+="$file "
	done
	check "$number is tested somewhere" test -n "$where"
	is "... by its number wherever the row says" "$bad" ""
done <"$tmp/rows"

known=" $(sed 's/|.*//' "$tmp/rows" | tr '\n' ' ')"
strange=
for number in $(grep -rhoE "(fault_|\bf)[0-9]{2}_|[\"']fault [0-9]+[:,]|fault-[0-9]{2}-" tests --include='*.c' --include='*.sh' \
	--include='Makefile.am' | grep -oE '[0-9]+' | sed 's/^0//' | sort -nu); do
	[[ $known == *" $number "* ]] || strange+="$number "
done
is "no test has a number that is no fault's" "$strange" ""
