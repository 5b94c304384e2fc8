#!/usr/bin/env bash
# A service hands its main process over (MAINPID=) to a child of its own: systemd stops it without waiting.
#
# Expected: sd_notify(3) has MAINPID= for a service "which did not fork off the process itself", and systemd.service(5)
#   says that a stop sends SIGTERM and waits for TimeoutStopSec= before SIGKILL.
# Seen: systemd 252 notes "Supervising process N which is not our child. We'll most likely not notice when it exits" in
#   the journal; at a stop it sends SIGTERM, and SIGKILL in the same millisecond, whatever TimeoutStopSec= says, on the
#   unified hierarchy as on the old one. If the very same process had lost its parent (a double fork) before MAINPID=
#   came, it is systemd's child, and has its time. Nothing sent later helps: the same MAINPID= again is ignored.
# Why it matters to a tunnel: a server that is upgraded without a gap starts its successor itself and hands over, as many
#   do; the next stop or restart then cuts every transfer.
# Versions: systemd 252 (Debian 12), CPython 3.11, Linux 6.18; 2026-11-27.
#
# Needs root, systemd-nspawn (Debian: systemd-container) and python3; boots this machine's own systemd over an overlay of
# its files, with a network of its own. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

for tool in systemd-nspawn python3 nsenter; do
    command -v "$tool" >/dev/null || { echo "no $tool found"; exit 2; }
done
# In a mount namespace of its own, with which the overlay goes.
[ "${1:-}" = inside ] || exec unshare --mount --propagation private "$0" inside || { echo "needs root"; exit 2; }
tmp=$(mktemp -d)
nspawn=
leader=
end() {
    [ -z "$leader" ] || nsenter --all --target "$leader" systemctl --force --force poweroff >/dev/null 2>&1 || true
    [ -z "$nspawn" ] || wait "$nspawn" 2>/dev/null || true
    umount "$tmp/root" 2>/dev/null || true
    rm -rf "$tmp"
}
trap end EXIT
mkdir "$tmp/root" "$tmp/upper" "$tmp/work"
mount -t overlay overlay -o "lowerdir=/,upperdir=$tmp/upper,workdir=$tmp/work" "$tmp/root" || exit 2
rm -rf "$tmp"/root/etc/systemd/system/*.{wants,requires} "$tmp"/root/etc/rc[2345S].d/S*

cat >"$tmp/root/usr/local/bin/hands-over" <<'PY'
#!/usr/bin/python3
import os, signal, socket, sys, time

def tell(text):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.sendto(text.encode(), os.environ["NOTIFY_SOCKET"])

def successor():
    def stop(*_):
        time.sleep(1)  # Something is still to be done.
        open("/run/ended-in-order", "w").close()
        os._exit(0)
    signal.signal(signal.SIGTERM, stop)
    while True:
        time.sleep(60)

signal.signal(signal.SIGTERM, signal.SIG_IGN)
tell("READY=1")
read, write = os.pipe()
if os.fork() == 0:
    if sys.argv[1] == "twice" and os.fork() != 0:
        os._exit(0)
    os.write(write, str(os.getpid()).encode())
    successor()
if sys.argv[1] == "twice":
    os.wait()
tell("MAINPID=" + os.read(read, 16).decode())
time.sleep(0.5)  # Whoever hands over ends, some time.
PY
chmod 755 "$tmp/root/usr/local/bin/hands-over"
for forks in once twice; do
    cat >"$tmp/root/etc/systemd/system/$forks.service" <<UNIT
[Service]
Type=notify
ExecStart=/usr/local/bin/hands-over $forks
TimeoutStopSec=20
UNIT
done
[ ! -d /sys/fs/cgroup/systemd ] || mkdir -p /sys/fs/cgroup/systemd/payload /sys/fs/cgroup/systemd/supervisor
systemd-nspawn -q -D "$tmp/root" -M "finding-$$" --boot --keep-unit --register=no --private-network --console=pipe \
    </dev/null >"$tmp/console" 2>&1 &
nspawn=$!
for _ in $(seq 300); do
    leader=$(cat "/proc/$nspawn/task/$nspawn/children" 2>/dev/null | cut -d' ' -f1) || true
    if [ -n "$leader" ] && nsenter --all --target "$leader" systemctl is-system-running --wait >/dev/null 2>&1; then
        break
    fi
    kill -0 "$nspawn" 2>/dev/null || { leader=; tail -n 3 "$tmp/console"; exit 2; }
    sleep 0.2
done
inside() { nsenter --all --target "$leader" sh -c "$1"; }
inside 'systemctl --version | head -n 1' || exit 2

changed=0
# expect FORKS IN_ORDER NOTED: whether the successor had its time, and whether systemd notes that it is not its child.
expect() {
    local ended noted
    inside "rm -f /run/ended-in-order; systemctl start $1; sleep 1; systemctl stop $1"
    ended=$(inside 'test -e /run/ended-in-order && echo yes || echo no')
    noted=$(inside "journalctl -o cat --no-pager -u $1 | grep -q 'not our child' && echo yes || echo no")
    printf 'forked %-5s  ended in order: %-3s  "not our child": %s\n' "$1" "$ended" "$noted"
    [ "$ended $noted" = "$2 $3" ] || changed=1
}
expect once no yes
expect twice yes no

if [ "$changed" = 1 ]; then
    echo "changed: see the head of this script"
    exit 1
fi
echo "as described"
