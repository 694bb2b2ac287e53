#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every input of the corpora, each once: what was found stays mended, with any compiler.
. "${top_srcdir:?}/tests/support/tap.sh"

for folder in "$top_srcdir"/tests/fuzz/corpus/*/; do
	target=$(basename "$folder")
	n=$(find "$folder" -type f | wc -l)
	check "fuzz-$target: $n inputs of its corpus" sh -c \
		'"$1" "$2"/* >"$TMPDIR/out" 2>&1 || { tail -n 40 "$TMPDIR/out" >&2; exit 1; }' \
		- "$top_builddir/tests/fuzz/fuzz-$target" "${folder%/}"
done
