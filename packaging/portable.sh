#!/bin/sh
# iptrec @VERSION@ for hosts without Python (@MACHINE@, glibc @GLIBC@ or newer). Its tree is behind the last line
# of this script, and is unpacked once: for root into /var/cache/iptrec, for others into ~/.cache/iptrec, or below
# $IPTREC_UNPACKED. It needs zlib, sh, tar, gzip and tail;
# for filters libpcap, to record what iptrec doctor names.
set -eu
umask 022
if [ -n "${IPTREC_UNPACKED-}" ]; then
    base=$IPTREC_UNPACKED
elif [ "$(id -u)" = 0 ]; then
    base=/var/cache/iptrec # and not below $HOME, which sudo may leave to be another user's
else
    base=${XDG_CACHE_HOME:-${HOME:?iptrec: set IPTREC_UNPACKED to a directory}/.cache}/iptrec
fi
tree=$base/portable-@DIGEST@
if [ ! -x "$tree/iptrec" ]; then
    mkdir -p "$base"
    part=$(mktemp -d "$base/part-XXXXXX")
    trap 'rm -rf "$part"' EXIT
    tail -n +@LINES@ "$0" | gzip -dc | tar -xf - -C "$part"
    chmod 755 "$part"
    mv -T "$part" "$tree" 2>/dev/null || [ -x "$tree/iptrec" ] # another one was faster
    trap - EXIT
    rm -rf "$part"
fi
exec "$tree/iptrec" "$@"
