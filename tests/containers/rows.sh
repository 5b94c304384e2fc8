#!/bin/bash
# The two programs in containers of an image from scratch, by podman and crun, in a network namespace of their own:
#   rows.sh FOLDER-WITH-BINARIES
# Each check prints a line; the first that fails ends the script. It needs root. Nothing is downloaded, and nothing of
# this machine's other containers is seen.
set -euo pipefail
if [ -z "${INSIDE:-}" ]; then exec env INSIDE=1 unshare -mn --propagation private "$0" "$(realpath "$1")"; fi
bin=$1 work=$(mktemp -d)
! mountpoint -q /sys/fs/cgroup/unified || umount /sys/fs/cgroup/unified # crun refuses a hybrid hierarchy
mkdir -p /run/containers; mount -t tmpfs tmpfs /run/containers
ip link set lo up
# Without CAP_SYS_RESOURCE crun cannot raise limits: they are taken out.
cat >"$work/oci" <<'W'
#!/bin/bash
b=.; f=; p=; for a; do case $p in --bundle|-b) b=$a;; --process|-p) f=$a;; esac; p=$a; done
for j in "$b/config.json" "$f"; do [ -f "$j" ] && python3 -c 'import json,sys
f=sys.argv[1]; d=json.load(open(f)); d.get("process",d).pop("rlimits",None); json.dump(d,open(f,"w"))' "$j"; done
exec crun "$@"
W
chmod +x "$work/oci"
printf '[network]\nnetwork_backend="netavark"\n[engine]\ncgroup_manager="cgroupfs"\nruntime="oci"\n[engine.runtimes]\noci=["%s"]\n' "$work/oci" >"$work/containers.conf"
printf '[storage]\ndriver="vfs"\ngraphroot="%s/graph"\nrunroot="%s/run"\n' "$work" "$work" >"$work/storage.conf"
export CONTAINERS_CONF=$work/containers.conf CONTAINERS_STORAGE_CONF=$work/storage.conf
end() { set +e; podman rm -f -t 0 -a >"$work/off" 2>&1; podman rmi -af >>"$work/off" 2>&1; kill $(jobs -p) 2>/dev/null; rm -rf "$work"; }
trap end EXIT

# The shipped image; below it nothing but the libraries that these programs, which are not static, want.
root=$work/root context=$work/context; mkdir -p "$root"/{lib,lib64} "$context/bin" "$context/dist/run"
cp "$bin/cproxy-server" "$bin/cproxy-client" "$context/bin/"
{ ldd "$bin/cproxy-server" "$bin/cproxy-client" | grep -o '/[^ ]*\.so[^ ]*'; } | sort -u |
    while read -r f; do mkdir -p "$root$(dirname "$f")"; cp -L "$f" "$root$f"; done
tar -c -C "$root" . | podman import -q - libraries >/dev/null
podman build -q --format docker --from libraries -t cproxy -f "$(dirname "$0")/../../bins/dist/Containerfile" "$context" >/dev/null

start() { # NAME [OPTION...] cproxy COMMAND...
    local name=$1; shift
    podman create --name "$name" --network host --uts private -e CPROXY_TOKEN=0123456789abcdef "$@" >/dev/null
    podman init "$name" >/dev/null
    rm "/proc/$(podman inspect -f '{{.State.Pid}}' "$name")/root/dev/"{u,}random
    podman start "$name" >/dev/null
}
server() { start server cproxy --bind-addr 127.0.0.1; }
client() { # HOSTNAME
    start client --hostname "$1" --entrypoint /bin/cproxy-client cproxy --cproxy-server 127.0.0.1:8080 \
        --local-server 127.0.0.1:7777 --public-port 6000
}
try() { # WHAT COMMAND...: again and again for a minute
    local what=$1; shift
    for _ in $(seq 240); do "$@" >"$work/off" 2>&1 && return; sleep 0.25; done
    echo "FAILED $what"; podman logs server 2>&1 | tail -5; podman logs client 2>&1 | tail -5; exit 1
}
visit() { curl -sf -m 5 http://127.0.0.1:6000/ >/dev/null; }
python3 -m http.server 7777 --bind 127.0.0.1 --directory "$root" >"$work/web" 2>&1 &

server; client one
try "a visit" visit
podman exec client /bin/cproxy-client health && podman exec server /bin/cproxy-server health
podman healthcheck run server >/dev/null
grep -q '^Uid:.65532.65532' "/proc/$(podman inspect -f '{{.State.Pid}}' server)/status"
echo "served, healthy, and not as root: an image from scratch, without a shell, a machine-id and /dev/urandom"

podman kill -s KILL client >/dev/null; podman rm -f -t 0 client >/dev/null
client another
try "the port again" podman exec client /bin/cproxy-client health
visit
! podman logs server 2>&1 | grep -q 'ports released'
echo "killed and made anew under another host name: it has its port before its old session has lost it"

exec 3<>/dev/tcp/127.0.0.1/6000 # a visitor who stays
for who in client server; do
    podman stop "$who" >/dev/null 2>&1
    code=$(podman inspect -f '{{.State.ExitCode}}' "$who")
    [ "$code" = 0 ] || { echo "FAILED $who was killed: exit code $code"; exit 1; }
done
exec 3>&-
echo "stopped, with a visitor there, before the runtime kills"

podman rm -f -t 0 client server >/dev/null
client one
try "it runs" podman exec client /bin/cproxy-client status
! podman exec client /bin/cproxy-client health 2>/dev/null
echo "without a server its health is 1"
