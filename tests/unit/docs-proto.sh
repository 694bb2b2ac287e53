#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
# Every message and field of proto/bulkhead.proto is in proto/README.md, and the README names no other message.
. "${top_srcdir:?}/tests/support/tap.sh"

proto=$top_srcdir/proto/bulkhead.proto
doc=$top_srcdir/proto/README.md

messages=$(sed -n 's/^message \([A-Za-z]*\) {.*/\1/p' "$proto")
check "messages are found at all" test "$(printf '%s\n' "$messages" | wc -l)" -ge 20

for m in $messages; do
	check "$m is documented" grep -q "\`$m\`" "$doc"
done

# Bodies of the envelope each have a row of the table, and the rows name nothing else.
bodies=$(sed -n '/oneof body {/,/}/s/^[[:space:]]*\([A-Z][A-Za-z]*\) [a-z_]* = [0-9]*;.*/\1/p' "$proto" | sort)
rows=$(sed -n 's/^| `\([A-Z][A-Za-z]*\)` | \(event\|request\|reply\), .*/\1/p' "$doc" | sort)
is "the table has a row for each message of the control bus and no other" "$rows" "$bodies"

# Each field of a message that is not the envelope is named in the text.
for f in $(sed -n '/^message Envelope/,/^}/d; s/^[[:space:]]*\(required\|repeated\|optional\) [A-Za-z0-9]* \([a-z_]*\) = .*/\2/p' \
	"$proto" | sort -u); do
	[ "$f" = stat ] && f=Stat
	[ "$f" = json ] && f=JSON
	check "field $f is documented" grep -qE "\b$f\b" "$doc"
done
