#!/bin/sh
# Runs a program in a mount namespace of its own that holds no copy of anybody else's mounts: such a copy would keep
# a disk or loop device busy after its owner has unmounted it.
#
# Usage: unshare -m --propagation private isolate.sh KEEP:KEEP:... PROGRAM ARGUMENT...
# Mounts that a KEEP folder lies on stay, and so do the system's own.
set -eu
keep=$1
shift

awk '$5 != "/" { print $5 }' /proc/self/mountinfo | sort -r | while read -r point; do
    case $point in
    /proc | /proc/* | /sys | /sys/* | /dev | /dev/* | /etc | /etc/* | /usr | /usr/* | /run) continue ;;
    esac
    IFS=:
    kept=
    for folder in $keep; do
        case $folder/ in "$point"/*) kept=yes ;; esac
    done
    [ -n "$kept" ] || umount -l "$point" 2>/dev/null || true
done

exec "$@"
