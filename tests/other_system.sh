# A mount namespace without /proc, and with a /dev/fd, as macOS has it; then a command as nobody in particular.
set -eu
made=$1
shift
mount -t tmpfs tmpfs "$made"
mkdir "$made/proc" "$made/dev"
mount --rbind /proc "$made/proc"
for device in null zero urandom random; do
    : >"$made/dev/$device"
    mount --bind "/dev/$device" "$made/dev/$device"
done
ln -s "$made/proc/self/fd" "$made/dev/fd"
ln -s fd/0 "$made/dev/stdin"
mount --rbind "$made/dev" /dev
mount -t tmpfs tmpfs /proc
exec unshare -U "$@"
