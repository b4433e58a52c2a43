#!/bin/sh
# Becomes the holder of a node's mount namespace: lays private folders over the places where a node keeps state, then
# sleeps. Everything mounted here disappears with the last process of the node, so a crash leaves no mount behind.
#
# Arguments: the node's folder, the folder for volume mounts.
set -eu
folder=$1
volumes=$2

mount --make-rshared /
mount -t tmpfs -o mode=755,size=64m tmpfs /run
mount --make-rshared /run
mkdir -p "$volumes" /run/lock
mount --bind "$folder/varlib" /var/lib
mount --bind "$folder/log" /var/log
mount --bind "$folder/containerd" /var/lib/containerd

# The kubelet sets these for the whole machine: it gets private files that already hold what it wants.
while read -r name value; do
    file=$folder/sysctl/$(echo "$name" | tr / _)
    echo "$value" >"$file"
    mount --bind "$file" "/proc/sys/$name"
done <<END
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
END

# Volumes of a node that comes back: before the kubelet could start a pod on them.
for image in "$folder"/volumes/*.img; do
    [ -e "$image" ] || continue
    point=$volumes/$(basename "$image" .img)
    mkdir -p "$point"
    mount -t xfs -o loop,nouuid "$image" "$point" || rmdir "$point"
done

touch "$folder/ready"
exec sleep infinity
