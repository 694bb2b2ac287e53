#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# The model of the split ring's recovery: whole state space without an error, and with a step left out or moved, one.
. "$top_srcdir/tests/support/tap.sh"
command -v spin >/dev/null || skip_all "spin is not installed"
here=$top_srcdir/tests/model
model=$here/split.pml

# search NAME NUMBER FLAG...: the verifier's report, in $tmp/NAME.out.
search() {
	local name=$1 number=$2
	shift 2
	mkdir -p "$tmp/$name"
	(cd "$tmp/$name" && spin -DMUTANT="$number" -a "$model" &&
		${CC:-cc} -w -DSAFETY -DNOREDUCE -DCOLLAPSE "$@" -o pan pan.c && ./pan -m3000000) >"$tmp/$name.out" 2>&1
	rm -rf "${tmp:?}/$name"
}

# function FILE NAME: the text of a C function.
function_text() { awk -v name="$2" '$0 ~ "[ *]" name "\\(.*\\)$" { on = 1 } on { print } on && /^}/ { exit }' "$1"; }

# Each line of steps.txt stands in its C function below the one before, and the model has its steps in this order.
in_step() {
	local file func line step last='' from=0 at n=0 seen=0 text
	while IFS=$'\t' read -r file func line step; do
		case $file in '#'*) continue ;; esac
		[ -f "$top_srcdir/$file" ] || { echo "no file $file"; return 1; }
		[ "$file $func" = "$last" ] || seen=0
		last="$file $func"
		text=$(function_text "$top_srcdir/$file" "$func")
		at=$(grep -nF -- "$line" <<<"$text" | cut -d: -f1 | awk -v s=$seen '$1 > s { print; exit }')
		[ -n "$at" ] || { echo "$file: $func: not there, or before what it should follow: $line"; return 1; }
		seen=$at
		at=$(grep -nF -- "$step" "$model" | cut -d: -f1 | awk -v s=$from '$1 > s { print; exit }')
		[ -n "$at" ] || { echo "split.pml: not there, or before what it should follow: $step"; return 1; }
		from=$at n=$((n + 1))
	done <"$here/steps.txt"
	[ $n -gt 20 ]
}
check "the steps of the model are lines of C, in their order" in_step

search whole 0 -O2
states=$(sed -n 's/^ *\([0-9]*\) states, stored$/\1/p' "$tmp/whole.out")
if grep -q 'errors: 0$' "$tmp/whole.out" && ! grep -qE 'Search not completed|depth too small|out of memory' "$tmp/whole.out"; then
	ok "no request is lost or done twice, whenever the process is killed ($states states)"
else
	not_ok "no request is lost or done twice, whenever the process is killed" "$(tail -n 40 "$tmp/whole.out")"
fi
unreached=$(grep ', state ' "$tmp/whole.out" | grep -v -- '"-end-"')
is "every step of the model is reached" "$unreached" ""

while read -r name number; do
	search "$name" "$number" -O0
	if found=$(sed -n 's/^pan:1: //p' "$tmp/$name.out") && [ -n "$found" ]; then
		ok "$name is found out: $found"
	else
		not_ok "$name is found out" "$(tail -n 20 "$tmp/$name.out")"
	fi
done < <(sed -n '/^\/\* Steps left out/,/^#ifndef MUTANT/s/^#define \([A-Z_]*\) *\([0-9]*\)$/\1 \2/p' "$model")
check "all mutants were tried" test $tap_count -ge 21
