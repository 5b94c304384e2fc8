#!/usr/bin/env bash
# One site, three spellings of its name: TLS servers and clients do not agree on which are the same host.
#
# Expected: https://app.example/, https://app.example./ and https://APP.example/ are one site. A name in DNS is the same in
#   any case (RFC 4343), and with a final dot it is the same name, said to be whole (RFC 1034, 3.1). In TLS it goes "without
#   a trailing dot", and is compared without regard to case (RFC 6066, 3).
# Seen: curl and Go take the dot off before they say the name (SNI), Python and Node say it as it stands; only curl and Node
#   make it lower case. Of the servers, each with a certificate for another name as its default:
#                     client says    app.example   app.example.                        APP.example
#     nginx 1.22.1                   the site      the site                            the site
#     haproxy 2.6.12 (strict-sni)    the site      refused: unrecognized_name          the site
#     Go 1.26.8 (crypto/tls)         the site      refused: decode_error               the site
#     Node 20.20.2 (addContext)      the site      the default site's certificate      the default site's certificate
#   So the same link works by pair: https://app.example./ in Node is an alert from a Go server and the wrong certificate
#   from a Node server, and in curl it works with all four; https://APP.example/ in Go or Python is the wrong certificate
#   from a Node server alone.
# Why it matters to a tunnel: what passes TLS on by its name passes the dot and the case on, too. It must find the site by
#   all three, and a service behind it that knows one spelling refuses visitors whom the tunnel has led to it.
# Versions: as above, curl 7.88.1, Python 3.11.7, OpenSSL 3.0 for the certificates; 2026-11-28.
#
# Needs apt-get with Debian 12's lists, dpkg, node, go, python3, curl and openssl. Exit 0: as described. Exit 1: changed.
#   Exit 2: cannot run here.
set -euo pipefail

for tool in apt-get dpkg node go python3 curl openssl; do
    command -v "$tool" >/dev/null || { echo "no $tool found"; exit 2; }
done
tmp=$(mktemp -d)
servers=()
trap 'kill "${servers[@]}" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
cd "$tmp"

{
    apt-get download haproxy=2.6.12-1+deb12u4 nginx=1.22.1-9+deb12u11 \
        liblua5.3-0=5.3.6-2 libopentracing-c-wrapper0=1.1.3-3+b1 libopentracing1=1.6.0-4
    for package in ./*.deb; do dpkg -x "$package" root; done
} >install.log 2>&1 || { cat install.log; exit 2; }
PATH=$tmp/root/usr/sbin:$PATH
export LD_LIBRARY_PATH=$tmp/root/usr/lib/x86_64-linux-gnu

for name in app default; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 30 -subj "/CN=$name" \
        -addext "subjectAltName=DNS:$name.example" -keyout "$name.key" -out "$name.crt" 2>/dev/null
    cat "$name.crt" "$name.key" >"$name.pem"
done

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}
declare -A port
for server in nginx haproxy go node; do
    port[$server]=$(free_port)
done

cat >nginx.conf <<NGINX
daemon off;
master_process off;
pid $tmp/nginx.pid;
error_log stderr;
events {}
http {
    access_log off;
    client_body_temp_path $tmp/body;
    proxy_temp_path $tmp/proxy;
    fastcgi_temp_path $tmp/fastcgi;
    uwsgi_temp_path $tmp/uwsgi;
    scgi_temp_path $tmp/scgi;
    server {
        listen 127.0.0.1:${port[nginx]} ssl default_server;
        ssl_certificate $tmp/default.pem;
        ssl_certificate_key $tmp/default.pem;
        return 200;
    }
    server {
        listen 127.0.0.1:${port[nginx]} ssl;
        server_name app.example;
        ssl_certificate $tmp/app.pem;
        ssl_certificate_key $tmp/app.pem;
        return 200;
    }
}
NGINX
nginx -c "$tmp/nginx.conf" 2>nginx.log & servers+=($!)

mkdir certificates
cp app.pem default.pem certificates
cat >haproxy.cfg <<HAPROXY
defaults
 mode http
 timeout connect 5s
 timeout client 5s
 timeout server 5s
frontend sites
 bind 127.0.0.1:${port[haproxy]} ssl crt $tmp/certificates strict-sni
 http-request return status 200
HAPROXY
haproxy -db -f haproxy.cfg 2>haproxy.log & servers+=($!)

cat >server.js <<'JS'
const fs = require("fs");
const https = require("https");
const of = (name) => ({ cert: fs.readFileSync(name + ".crt"), key: fs.readFileSync(name + ".key") });
const server = https.createServer(of("default"), (_, response) => response.end());
server.addContext("app.example", of("app"));
server.listen(Number(process.argv[2]), "127.0.0.1");
JS
node server.js "${port[node]}" & servers+=($!)

cat >server.go <<'GO'
package main

import (
	"crypto/tls"
	"io"
	"log"
	"net/http"
	"os"
)

func of(name string) tls.Certificate {
	pair, err := tls.LoadX509KeyPair(name+".crt", name+".key")
	if err != nil {
		panic(err)
	}
	return pair
}

func main() {
	server := http.Server{
		Addr:      "127.0.0.1:" + os.Args[1],
		TLSConfig: &tls.Config{Certificates: []tls.Certificate{of("default"), of("app")}},
		ErrorLog:  log.New(io.Discard, "", 0),
	}
	panic(server.ListenAndServeTLS("", ""))
}
GO

# Each client asks for https://HOST:PORT/ at 127.0.0.1, whatever HOST leads to, believes every certificate, and says whose
# it was shown.
cat >client.go <<'GO'
package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"os"
	"strings"
)

func main() {
	dial := func(ctx context.Context, network, addr string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, network, "127.0.0.1:"+os.Args[2])
	}
	transport := &http.Transport{DialContext: dial, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	answer, err := (&http.Client{Transport: transport}).Get("https://" + os.Args[1] + ":" + os.Args[2] + "/")
	if err != nil {
		said := err.Error()
		fmt.Println("refused:", strings.ReplaceAll(said[strings.LastIndex(said, ": ")+2:], " ", "_"))
		return
	}
	fmt.Println(answer.TLS.PeerCertificates[0].Subject.CommonName)
}
GO
export GOFLAGS=-mod=mod GOCACHE=${GOCACHE:-$(go env GOCACHE)}
go build -o go-server server.go
go build -o go-client client.go
./go-server "${port[go]}" 2>go.log & servers+=($!)

cat >client.js <<'JS'
const https = require("https");
const [host, port] = process.argv.slice(2);
const lookup = (_, options, done) =>
    options.all ? done(null, [{ address: "127.0.0.1", family: 4 }]) : done(null, "127.0.0.1", 4);
const request = https.get({ ...require("url").urlToHttpOptions(new URL(`https://${host}:${port}/`)), lookup,
    rejectUnauthorized: false, agent: false });
request.on("response", (answer) => {
    console.log(answer.socket.getPeerCertificate().subject.CN);
    answer.destroy();
});
request.on("error", (error) => console.log("refused:", error.code));
JS

cat >client.py <<'PY'
import http.client
import re
import socket
import ssl
import subprocess
import sys

host, port = sys.argv[1], int(sys.argv[2])
real = socket.getaddrinfo
socket.getaddrinfo = lambda name, *more, **rest: real("127.0.0.1", *more, **rest)
site = http.client.HTTPSConnection(host, port, context=ssl._create_unverified_context(), timeout=10)
try:
    site.connect()
    shown = site.sock.getpeercert(binary_form=True)
    said = subprocess.run(["openssl", "x509", "-inform", "der", "-noout", "-subject"], input=shown, capture_output=True)
    print(re.search(rb"CN ?= ?(\w+)", said.stdout).group(1).decode())
except ssl.SSLError as error:
    print("refused:", error.reason)
PY

shown_to() {
    local client=$1 host=$2 at=$3
    case $client in
    curl) curl -skv --noproxy '*' --max-time 10 --connect-to "::127.0.0.1:$at" "https://$host:$at/" 2>&1 |
        sed -nE 's/.*subject: .*CN ?= ?([a-z]+).*/\1/p; s/.*alert ([a-z ]+), errno.*/refused/p; s/^curl: .*/refused/p' |
        head -n 1 ;;
    go) ./go-client "$host" "$at" ;;
    node) node client.js "$host" "$at" ;;
    python) python3 client.py "$host" "$at" ;;
    esac
}

for server in nginx haproxy go node; do
    for _ in $(seq 100); do
        (exec 3<>"/dev/tcp/127.0.0.1/${port[$server]}") 2>/dev/null && break
        sleep 0.1
    done
done

result=0
expect() {
    local client=$1 server=$2 host=$3 expected=$4 said
    said=$(shown_to "$client" "$host" "${port[$server]}")
    printf '%-8s %-14s at %-8s %s\n' "$client" "$host" "$server" "$said"
    [[ $said == $expected* ]] || { echo "  it was: $expected"; result=1; }
}
for client in curl go node python; do
    for server in nginx haproxy go node; do
        expect "$client" "$server" app.example app
    done
done
# The dot: taken off by two clients, said by two.
for client in curl go; do
    for server in nginx haproxy go node; do
        expect "$client" "$server" app.example. app
    done
done
for client in node python; do
    expect "$client" nginx app.example. app
    expect "$client" haproxy app.example. refused
    expect "$client" go app.example. refused
    expect "$client" node app.example. default
done
# The case: made lower by two clients, said by two.
for client in curl node; do
    for server in nginx haproxy go node; do
        expect "$client" "$server" APP.example app
    done
done
for client in go python; do
    for server in nginx haproxy go; do
        expect "$client" "$server" APP.example app
    done
    expect "$client" node APP.example default
done
((result == 0)) && echo "as described"
exit "$result"
