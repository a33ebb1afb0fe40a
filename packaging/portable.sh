#!/bin/sh
# iptrec @VERSION@ for hosts without Python (@MACHINE@, glibc @GLIBC@ or newer). Its tree is behind the last
# line of this script, and is unpacked once: for root into /var/cache/iptrec, for others, and where root cannot
# write there, into ~/.cache/iptrec, or below $IPTREC_UNPACKED. It needs zlib, sh, ls, tar, gzip and tail; for
# filters libpcap, to record what iptrec doctor names.
set -eu
me=$(id -u)
name=portable-@DIGEST@
newline='
'

fail() {
    echo "iptrec: $1" >&2
    exit 2
}

elsewhere() {
    fail "$1; set IPTREC_UNPACKED=DIRECTORY to unpack into another directory"
}

# The path of a directory, without links.
plain() {
    { CDPATH='' cd -P -- "$1" && pwd -P; } 2>/dev/null
}

# Why somebody else could put code of their own under a path; nothing if nobody can.
others() {
    at=$1
    set --
    while [ -n "$at" ]; do
        set -- "$at" "$@"
        at=${at%/*}
    done
    # From above: what is right there keeps what is below from being exchanged, for a link too.
    found=$(ls -ldn / "$@" 2>&1) || {
        echo "${found%%"$newline"*}"
        return
    }
    printf '%s\n' "$found" | while read -r mode _ owner _ _ _ _ _ path; do
        place=above
        case $path in */"$name") place=tree ;; esac
        case $place:$owner in
        *:0 | *:"$me" | above:"$unmapped") ;;
        *) echo "$path belongs to user $owner" && break ;;
        esac
        case $place:$mode in
        *:d????-??-?* | above:d????????[tT]*) ;; # in a sticky one only owners change names
        *:d*) echo "$path can be written by other users" && break ;;
        *) echo "$path is not a directory" && break ;;
        esac
    done
}

safe() {
    why=$(others "$1")
    [ -z "$why" ] || elsewhere "will not run what others can change: $why"
}

# Whether root can use a directory: in a user namespace it may be nobody's to write.
usable() {
    (umask 022 && mkdir -p "$1") 2>/dev/null && [ -O "$1" ] && { [ -w "$1" ] || [ -x "$1/$name/iptrec" ]; }
}

# Runs in a subshell: the umask, the traps and the lock are its own.
unpack() (
    umask 022
    for one in ls tail tar gzip mktemp; do
        command -v "$one" >/dev/null || fail "$one is not installed: it is needed to unpack iptrec"
    done
    there=$base
    until [ -d "$there" ]; do
        case $there in */*) there=${there%/*} ;; *) there=. ;; esac
        there=${there:-/}
    done
    there=$(plain "$there") || elsewhere "cannot enter a directory above $base"
    safe "$there"
    why=$(mkdir -p "$base" 2>&1) || elsewhere "${why%%"$newline"*}"
    base=$(plain "$base") || elsewhere "cannot enter $base"
    safe "$base"
    # What is left of an unpacking that was killed is not locked. Nor is one that has only begun: see below.
    for one in "$base"/part-??????; do
        if [ -d "$one" ] && [ ! -L "$one" ] && [ -O "$one" ]; then
            flock -n "$one" rm -rf "$one" 2>/dev/null || :
        fi
    done
    part=
    trap 'rm -rf "$part"' EXIT
    trap 'exit 130' HUP INT TERM
    until [ -d "$part" ]; do
        part=$(mktemp -d "$base/part-XXXXXX" 2>&1) || elsewhere "${part%%"$newline"*}"
        { command exec 9<"$part" && flock 9; } 2>/dev/null || :
    done
    # The status of a pipeline is tar's alone; gzip's says whether all of it was right.
    why=$({ { tail -n +@LINES@ "$0" | gzip -dc && : >"$part/whole"; } | tar -xf - -C "$part"; } 2>&1) &&
        [ -e "$part/whole" ] ||
        elsewhere "cannot unpack $0 into $base: ${why%%"$newline"*}; download it again if it is damaged"
    rm "$part/whole"
    why=$("$part/iptrec" --version 2>&1) ||
        elsewhere "cannot run in $base (noexec? glibc older than @GLIBC@?): ${why%%"$newline"*}"
    chmod 755 "$part"
    mv -T "$part" "$base/$name" 2>/dev/null || [ -x "$base/$name/iptrec" ] || # another one was faster
        elsewhere "$base/$name is in the way: remove it"
)

unmapped=$me # in a user namespace: the owner of files of those whom it does not know, root among them
if { read -r _ _ count </proc/self/uid_map; } 2>/dev/null && [ "$count" != 4294967295 ]; then
    unmapped=65534
fi
if [ -n "${IPTREC_UNPACKED-}" ]; then
    base=$IPTREC_UNPACKED
elif [ "$me" = 0 ] && usable /var/cache/iptrec; then
    base=/var/cache/iptrec # and not below $HOME, which sudo may leave to be another user's
elif [ -n "${XDG_CACHE_HOME-}${HOME-}" ]; then
    base=${XDG_CACHE_HOME:-$HOME/.cache}/iptrec
else
    elsewhere "HOME is not set"
fi
[ -x "$base/$name/iptrec" ] || unpack || exit
base=$(plain "$base") || elsewhere "cannot enter $base"
safe "$base/$name"
exec "$base/$name/iptrec" "$@"
