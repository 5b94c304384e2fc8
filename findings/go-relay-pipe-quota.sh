#!/usr/bin/env bash
# A Go relay's 33rd idle visitor shrinks every later pipe of the same user to 8 KiB, in other programs too.
#
# Expected: pipe(7) gives a new pipe 64 KiB, and nothing in the documentation of Go's io and net packages gives io.Copy
#   between two TCP connections a cost that grows with the count of idle ones, let alone for other programs.
# Seen: io.Copy holds one pipe per direction from the start of the copy, idle or not, and asks for 1 MiB (256 pages)
#   for each. The kernel's soft limit is one budget per *user* (fs.pipe-user-pages-soft, 16384 pages by default), so
#   exactly 64 such pipes empty it: with 32 visitors all pipes have 1 MiB, and everything opened after that gets 2
#   pages, 8 KiB. The same copy then costs several times the CPU time, and an unrelated process of that user gets 8
#   KiB pipes as well. Nothing is logged, and no call fails. Output of the last run (default sysctls):
#     32 visitors: relay's pipes: 64 of 1048576 bytes; a fresh pipe elsewhere: 8192 bytes
#     40 visitors: relay's pipes: 64 of 1048576 bytes, 16 of 8192 bytes; a fresh pipe elsewhere: 8192 bytes
#     CPU of the relay for 512 MiB: 1.1 to 1.7 s for the first visitor (1 MiB pipes), 4.2 s for the last (8 KiB pipes)
#   CAP_SYS_RESOURCE or CAP_SYS_ADMIN in the first user namespace lifts the limit, so it does not show in a test as
#   root, and does show for a container's root, which has neither by default (run here as root without the two: 61
#   large pipes, then 8 KiB, as root's other programs draw on the same budget).
# Why it matters to a tunnel: a relay built on splice must ask for large pipes only while bulk flows, must give them
#   back when idle, and must not take the pipe size it asked for as the size it has; a neighbour can take the budget
#   away.
# Versions: Go 1.26.8, github.com/inetaf/tcpproxy v0.0.0-20260515195445-c159a6051109, Linux 6.18; 2026-11-27.
#
# Needs go and, when started as root, setpriv (util-linux). Exit 0: as described. 1: changed. 2: cannot run here.
set -euo pipefail

tmp=$(mktemp -d)
pids=()
finish() {
    for pid in "${pids[@]}"; do kill "$pid" 2>/dev/null || true; done
    rm -rf "$tmp"
}
trap finish EXIT
chmod 755 "$tmp"

[ "$(cat /proc/sys/fs/pipe-user-pages-soft)" = 16384 ] && [ "$(cat /proc/sys/fs/pipe-max-size)" = 1048576 ] ||
    { echo "the pipe sysctls are not the kernel's defaults here"; exit 2; }

as_user=()
[ "$(id -u)" != 0 ] || as_user=(setpriv --reuid 61234 --regid 61234 --clear-groups --bounding-set -all --inh-caps -all)

cat >"$tmp/main.go" <<'GO'
package main

import (
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sort"
	"strconv"
	"strings"
	"syscall"

	"github.com/inetaf/tcpproxy"
)

const bulk = 512 << 20

func main() {
	switch os.Args[1] {
	case "relay":
		relay(os.Args[2])
	case "pipe":
		r, _, err := os.Pipe()
		must(err)
		fmt.Println(pipeSize(r.Fd()))
	case "service":
		service()
	case "visit":
		visit(os.Args[2], os.Args[3], os.Args[4:])
	}
}

// relay is the package under test, with its own defaults.
func relay(to string) {
	l := listen()
	proxy := &tcpproxy.Proxy{ListenFunc: func(_, _ string) (net.Listener, error) { return l, nil }}
	proxy.AddRoute("any", tcpproxy.To(to))
	must(proxy.Run())
}

// service answers the first byte with one byte and throws the rest away, through user space so that it holds no pipe.
func service() {
	l := listen()
	for {
		conn, err := l.Accept()
		must(err)
		go func() {
			buf := make([]byte, 256<<10)
			for first := true; ; first = false {
				n, err := conn.Read(buf)
				if err != nil {
					return
				}
				if first || buf[n-1] == '!' {
					conn.Write(buf[n-1 : n])
				}
			}
		}()
	}
}

// visit opens visitors step by step and reports the pipes that the relay holds at each step, then what bulk costs it.
func visit(addr, relayPid string, command []string) {
	var conns []net.Conn
	for _, count := range []int{32, 40} {
		for len(conns) < count {
			conn, err := net.Dial("tcp", addr)
			must(err)
			exchange(conn, '.')
			conns = append(conns, conn)
		}
		fmt.Printf("%d visitors: relay's pipes: %s; a fresh pipe elsewhere: %s bytes\n", count, pipes(relayPid), run(command))
	}
	fmt.Println("cpu", cost(conns[0], relayPid), cost(conns[len(conns)-1], relayPid))
}

func cost(conn net.Conn, pid string) int {
	before := ticks(pid)
	chunk := make([]byte, 1<<20)
	for sent := 0; sent < bulk; sent += len(chunk) {
		_, err := conn.Write(chunk)
		must(err)
	}
	exchange(conn, '!')
	return (ticks(pid) - before) * 10
}

func exchange(conn net.Conn, b byte) {
	_, err := conn.Write([]byte{b})
	must(err)
	_, err = io.ReadFull(conn, make([]byte, 1))
	must(err)
}

func ticks(pid string) int {
	stat, err := os.ReadFile("/proc/" + pid + "/stat")
	must(err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return user + system
}

// pipes leaves out the default-sized ones: the Go runtime's own, and standard input or output.
func pipes(pid string) string {
	dir := "/proc/" + pid + "/fd/"
	entries, err := os.ReadDir(dir)
	must(err)
	seen, sizes := map[string]bool{}, map[int]int{}
	for _, entry := range entries {
		link, err := os.Readlink(dir + entry.Name())
		if err != nil || !strings.HasPrefix(link, "pipe:") || seen[link] {
			continue
		}
		seen[link] = true
		fd, err := syscall.Open(dir+entry.Name(), syscall.O_RDONLY|syscall.O_NONBLOCK, 0)
		must(err)
		if size := pipeSize(uintptr(fd)); size != 65536 {
			sizes[size]++
		}
		syscall.Close(fd)
	}
	var parts []string
	for size, n := range sizes {
		parts = append(parts, fmt.Sprintf("%d of %d bytes", n, size))
	}
	sort.Slice(parts, func(i, j int) bool { return len(parts[i]) > len(parts[j]) })
	return strings.Join(parts, ", ")
}

func pipeSize(fd uintptr) int {
	size, _, errno := syscall.Syscall(syscall.SYS_FCNTL, fd, 1032 /* F_GETPIPE_SZ */, 0)
	if errno != 0 {
		log.Fatal(errno)
	}
	return int(size)
}

func run(command []string) string {
	r, w, err := os.Pipe()
	must(err)
	path := command[0]
	if !strings.Contains(path, "/") {
		path = "/usr/bin/" + path
	}
	process, err := os.StartProcess(path, command, &os.ProcAttr{Files: []*os.File{nil, w, os.Stderr}})
	must(err)
	w.Close()
	out, err := io.ReadAll(r)
	must(err)
	process.Wait()
	return strings.TrimSpace(string(out))
}

func listen() net.Listener {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	must(err)
	fmt.Println(l.Addr())
	return l
}

func must(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
GO

(
    cd "$tmp"
    export GOPATH="$tmp/gopath" GOFLAGS="-modcacherw -buildvcs=false"
    go mod init finding
    go get github.com/inetaf/tcpproxy@v0.0.0-20260515195445-c159a6051109
    go build -o finding .
) >"$tmp/install.log" 2>&1 || { cat "$tmp/install.log"; exit 2; }

address_in() { # the first line of a file, once it is there
    for _ in $(seq 100); do [ -s "$1" ] && break; sleep 0.1; done
    head -n1 "$1"
}

"$tmp/finding" service >"$tmp/service.addr" &
pids+=($!)
"${as_user[@]}" "$tmp/finding" relay "$(address_in "$tmp/service.addr")" >"$tmp/relay.addr" 2>/dev/null &
pids+=($!)
"$tmp/finding" visit "$(address_in "$tmp/relay.addr")" "${pids[1]}" "${as_user[@]}" "$tmp/finding" pipe | tee "$tmp/out"

want="32 visitors: relay's pipes: 64 of 1048576 bytes; a fresh pipe elsewhere: 8192 bytes
40 visitors: relay's pipes: 64 of 1048576 bytes, 16 of 8192 bytes; a fresh pipe elsewhere: 8192 bytes"
[ "$(head -n2 "$tmp/out")" = "$want" ] || { echo "CHANGED: the pipes are not as described"; exit 1; }
read -r _ early late < <(tail -n1 "$tmp/out")
[ "$late" -ge $((early * 3 / 2)) ] || { echo "CHANGED: the late visitor's bulk costs the relay no more CPU"; exit 1; }
echo "as described"
