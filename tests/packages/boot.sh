#!/usr/bin/env bash
# Boots systemd of a root directory in namespaces and a control group of its own, and prints what it says. Run as root.
#
#   tests/packages/boot.sh ROOT CGROUP
#
# It ends with the shell that started it, or with SIGKILL.
set -euo pipefail

mkdir "$2"
echo $BASHPID >"$2/cgroup.procs"
exec unshare --mount --pid --uts --ipc --net --cgroup --fork --kill-child --propagation private bash -euc '
mount --bind "$0" "$0"
cd "$0"
mount -t proc proc proc
mount -t sysfs sysfs sys
mount -t cgroup2 cgroup2 sys/fs/cgroup
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mount -t tmpfs -o mode=755 tmpfs dev
mkdir dev/pts dev/shm
mount -t tmpfs tmpfs dev/shm
for device in null zero full random urandom tty; do
  touch "dev/$device"
  mount --bind "/dev/$device" "dev/$device"
done
mount -t devpts -o newinstance,ptmxmode=666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
ip link set lo up
mkdir run/outside
pivot_root . run/outside
umount --lazy run/outside
rmdir run/outside
exec env --ignore-environment container=namespaces PATH=/usr/sbin:/usr/bin:/sbin:/bin /sbin/init
' "$1"
