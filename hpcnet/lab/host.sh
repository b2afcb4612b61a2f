#!/bin/sh
# SPDX-License-Identifier: Apache-2.0
# The first process of a lab host.
#   host.sh keep NAME LAB   waits for a line on stdin, then makes the host's namespaces and keeps them
#   host.sh init NAME LAB   is pid 1 in them: lays out the host's mounts, prints "ready", becomes tini
# LAB is the lab's directory; every mount made here is private to the host and ends with it.
set -eu
verb=$1 name=$2 lab=$3
own=$lab/hosts/$name

keep() {
    # The line says that the lab has recorded this process. Without it (the lab died) nothing may be made.
    read -r _ || exit 1
    while read -r _ _ _ group; do
        [ "$group" = - ] || echo 0 >"$group/cgroup.procs"
    done <"$own/cgroups"
    exec unshare --net --mount --uts --pid --cgroup --fork --kill-child \
        sh "$0" init "$name" "$lab" </dev/null
}

kernel_mounts() {
    mount -t proc proc /proc
    mount --bind "$own/boot_id" /proc/sys/kernel/random/boot_id
    sys_mount
    # The host's own part of the control groups, as its cgroup namespace shows it.
    while read -r point type options _; do
        mkdir -p "$point"
        mount -t "$type" -o "$options" "$type" "$point"
    done <"$own/cgroups"
    mount -t tmpfs -o mode=1777 tmpfs /dev/shm
}

sys_mount() {
    [ -d /sys/class/infiniband ] || {
        mount -t sysfs sysfs /sys
        return
    }
    # Adapters have their counters only in the machine's own view of them.
    mkdir -p "$own/sys"
    mount --bind /sys "$own/sys"
    mount -t sysfs sysfs /sys
    for adapter in "$own"/sys/class/infiniband/*; do
        [ -e "$adapter" ] || continue
        adapter=$(readlink -f "$adapter")
        mount --bind "$adapter" "/sys${adapter#"$own/sys"}"
    done
    umount "$own/sys"
}

run_mount() {
    # What is mounted on the machine below /run (namespaces of "ip netns") would be kept in use by our copy of it.
    for point in $(cut -d " " -f 5 /proc/self/mountinfo | grep '^/run/'); do
        umount -l "$point" 2>/dev/null || :
    done
    mount -t tmpfs -o mode=755 tmpfs /run
    mkdir -m 755 /run/munge /run/netns /run/user
    mkdir -m 1777 /run/lock
    mount --bind "$lab/munge" /run/munge
    # As "ip netns add" would leave it.
    mount --bind /run/netns /run/netns
    mount --make-shared /run/netns
    # A user namespace may mount a /proc only where one is seen with nothing over its files; ours has its boot_id.
    mkdir -m 700 /run/proc
    mount -t proc proc /run/proc
}

home_mount() {
    # The machine's home directories stay visible beside those of the lab's users.
    mount -t tmpfs -o mode=755 tmpfs "$own/home"
    for home in /home/*; do
        [ -d "$home" ] || continue
        mkdir "$own$home"
        mount --rbind "$home" "$own$home"
    done
    for home in "$lab"/home/*; do
        mkdir -p "$own/home/${home##*/}"
        mount --bind "$home" "$own/home/${home##*/}"
    done
    mount --rbind "$own/home" /home
}

overlay() { # overlay DIRECTORY NAME: the machine's directory, with what the host changes kept in $own/NAME
    mount -t overlay -o "lowerdir=$1,upperdir=$own/$2,workdir=$own/$2.work" overlay "$1"
}

init() {
    hostname "$name"
    kernel_mounts
    run_mount
    home_mount
    overlay /etc etc
    overlay /opt opt
    mount --bind "$lab/opt/hpcnet" /opt/hpcnet
    mount --bind "$own/spool" /var/spool
    mount --bind "$own/log" /var/log
    if [ "$name" = switch ]; then
        echo 1 >/proc/sys/net/ipv6/conf/all/disable_ipv6
        echo 1 >/proc/sys/net/ipv6/conf/default/disable_ipv6
    fi
    echo ready
    exec tini -- sleep infinity </dev/null >/dev/null 2>&1
}

"$verb"
