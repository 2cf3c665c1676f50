#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The code that runs in a guest process is copied to another address: its section may hold no
# reference to anything outside, and nothing of the file may lie in another section.
set -eu

object=hv/.libs/libhvguest_la-process_guest.o
[ -e "$object" ] || object=hv/libhvguest_la-process_guest.o
sections=$(objdump -h "$object" | awk '$1 ~ /^[0-9]+$/ && $3 !~ /^0+$/ { print $2 }')
for section in $sections; do
    case $section in
    hv_guest_text | .comment | .note.* | .debug_* | .eh_frame) ;;
    *)
        echo "$object: $section is not empty" >&2
        exit 1
        ;;
    esac
done
echo "$sections" | grep -qx hv_guest_text
outside=$(objdump -r -j hv_guest_text "$object" | awk '$2 ~ /^R_X86_64/ { print $3 }' |
    grep -v '^process_guest_\|^hv_guest_text' || true)
if [ -n "$outside" ]; then
    echo "$object: reaches out to: $outside" >&2
    exit 1
fi
