#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# The one command a guest's author types, with each compiler there is: against the build tree, and
# against what `make install` put under a prefix.
set -u -o pipefail

pkg_config=${PKG_CONFIG:-pkg-config}
build=$PWD
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

cat > "$work/f.c" <<'C'
#include <hlguest.h>

HL_FUNCTION(i32, twice, (i32, a))
{
    return 2 * a;
}
C
cp "$work/f.c" "$work/f.cc"

# $1: what is tried; the rest: the command.
try() {
    local what=$1
    shift
    rm -f "$work/f"
    if ! "$@" > "$work/log" 2>&1; then
        echo "FAIL: $what: $*"
        cat "$work/log"
        failed=1
    elif [ "$(readelf -SW "$work/f" | awk '/ hl_functions /' | grep -c ' 000060 ')" != 1 ]; then
        echo "FAIL: $what: hl_functions is not one entry long"
        readelf -SW "$work/f"
        failed=1
    else
        echo "ok: $what"
    fi
}

# $1: what is tried; $2: its flags.
try_all() {
    local where=$1 flags=$2
    for cc in gcc clang musl-gcc; do
        command -v "$cc" > /dev/null || continue
        try "$cc, $where" "$cc" -static "$work/f.c" $flags -o "$work/f"
        try "$cc -std=c11, $where" "$cc" -std=c11 -Wall -Wextra -Werror -static "$work/f.c" \
            $flags -o "$work/f"
    done
    try "gcc -static-pie, $where" gcc -static-pie -fPIE "$work/f.c" $flags -o "$work/f"
    if command -v g++ > /dev/null; then
        try "g++, $where" g++ -Wall -Wextra -Werror -static "$work/f.cc" $flags -o "$work/f"
    fi
}

try_all "build tree" "$(PKG_CONFIG_PATH=$build/guest "$pkg_config" --cflags --libs --static hlguest)"

prefix=$work/prefix
if ! make -s install-guestlibDATA install-guestincludeHEADERS install-pkgconfigDATA \
    prefix="$prefix" exec_prefix="$prefix" libdir="$prefix/lib" includedir="$prefix/include" \
    > "$work/log" 2>&1; then
    cat "$work/log"
    exit 1
fi
try_all "installed" "$(PKG_CONFIG_PATH=$prefix/lib/pkgconfig PKG_CONFIG_DISABLE_UNINSTALLED=1 \
    "$pkg_config" --define-variable=prefix="$prefix" --define-variable=exec_prefix="$prefix" \
    --define-variable=libdir="$prefix/lib" --define-variable=includedir="$prefix/include" \
    --cflags --libs --static hlguest)"
exit "$failed"
