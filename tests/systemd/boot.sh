#!/bin/bash
# Boots the shipped units under a real systemd: boot.sh WORK BINARIES UNITS
# To be run in a mount namespace of its own: its overlay goes with it. The root is this machine's own, read-only
# beneath an overlay; network, pids, mounts and journal are the instance's own. WORK/etc is laid over /etc/cproxy.
# Needs root and systemd-nspawn (Debian: systemd-container); nothing is downloaded.
set -eu
work=$1 bin=$2 units=$3 root=$1/root
mkdir "$root" "$work/upper" "$work/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$work/upper,workdir=$work/work" "$root"
# None of the machine's services, an identity and a journal of its own.
rm -rf "$root"/etc/systemd/system/*.wants "$root"/etc/systemd/system/*.requires "$root"/etc/rc[2345S].d/S* \
    "$root"/var/log/journal
systemd-id128 new >"$root/etc/machine-id"
# The units, as their comments say.
install -m 755 "$bin/cproxy-server" "$bin/cproxy-client" "$root/usr/local/bin/"
install -m 644 "$units"/*.service "$root/etc/systemd/system/"
cp -r "$units" "$root/units"
rm -rf "$root/etc/cproxy"
cp -r "$work/etc" "$root/etc/cproxy"
# On a hybrid hierarchy nspawn wants these two to be there already.
[ ! -d /sys/fs/cgroup/systemd ] || mkdir -p /sys/fs/cgroup/systemd/payload /sys/fs/cgroup/systemd/supervisor
exec systemd-nspawn -q -D "$root" -M "cproxy-$$" --boot --keep-unit --register=no --private-network --console=pipe
