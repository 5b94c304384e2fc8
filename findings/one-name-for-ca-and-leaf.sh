#!/usr/bin/env bash
# An authority and a certificate that it has signed have one subject name (rcgen's default): OpenSSL says "self-signed".
#
# Expected: RFC 5280 (section 3.2) calls a certificate self-signed when its signature can be verified by the key that is in
#   it. This one's is the authority's, who is trusted, so it is good.
# Seen: rcgen gives whoever names nobody the subject "CN=rcgen self signed cert": the authority, and each certificate that
#   it signs, which differ in their keys and alternative names. rustls (webpki) and Go look for an issuer by its signature,
#   and take it. All that verify by OpenSSL take the equal names, without key identifiers (rcgen writes none for a leaf by
#   itself), for "self-signed", do not look at the signature, and refuse it (error 18):
#                                          same name      a name of its own
#     rustls-webpki 0.103.17               good           good
#     Go 1.26.8 (crypto/tls)               good           good
#     curl 7.88.1, OpenSSL 3.0             refused        good
#     CPython 3.11 (ssl)                   refused        good
#     Node 20.20.2                         refused        good
# Why it matters to a tunnel: tunnels and their tests make an authority of their own with rcgen and try it with rustls at
#   both ends. The same files fail with the first client in another language, and what that says sends people to look
#   for a missing authority ("self-signed certificate"). One line avoids it: another common name for the leaf.
# Versions: rcgen 0.14.10 and as above; 2026-11-28.
#
# Needs cargo and a C compiler (for ring), python3, node, go, curl. Exit 0: as described. Exit 1: changed. Exit 2: cannot
#   run here.
set -euo pipefail

for tool in cargo python3 node go curl; do
    command -v "$tool" >/dev/null || { echo "no $tool found"; exit 2; }
done
tmp=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$tmp"' EXIT
cd "$tmp"

mkdir src
cat >Cargo.toml <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2024"

[dependencies]
rcgen = { version = "=0.14.10", default-features = false, features = ["ring", "pem"] }
rustls-pki-types = { version = "1", features = ["std"] }
rustls-webpki = { version = "=0.103.17", default-features = false, features = ["ring", "std"] }

[profile.dev]
debug = false
TOML
cat >src/main.rs <<'RUST'
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use rustls_pki_types::UnixTime;
use std::fs::write;

fn main() {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = params.self_signed(&key).unwrap();
    write("ca.pem", authority.pem()).unwrap();
    let issuer = Issuer::new(params, key);
    for (file, name) in [("same", None), ("own", Some("a leaf"))] {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
        if let Some(name) = name {
            params.distinguished_name.push(DnType::CommonName, name);
        }
        let leaf = params.signed_by(&key, &issuer).unwrap();
        write(format!("{file}.pem"), leaf.pem() + &key.serialize_pem()).unwrap();
        let anchors = [webpki::anchor_from_trusted_cert(authority.der()).unwrap()];
        let entity = webpki::EndEntityCert::try_from(leaf.der()).unwrap();
        let (algorithms, usage) = (webpki::ALL_VERIFICATION_ALGS, webpki::KeyUsage::server_auth());
        let is_good = entity.verify_for_usage(algorithms, &anchors, &[], UnixTime::now(), usage, None, None).is_ok();
        println!("rustls {file} {}", if is_good { "good" } else { "refused" });
    }
}
RUST
cargo run -q >seen 2>cargo.log || { cat cargo.log; exit 2; }

cat >serve.py <<'PY'
import http.server, ssl, sys

context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[1])
server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
server.socket = context.wrap_socket(server.socket, server_side=True)
print(server.server_port, flush=True)
server.serve_forever()
PY
cat >ask.py <<'PY'
import ssl, sys, urllib.request

context = ssl.create_default_context(cafile="ca.pem")
urllib.request.urlopen(sys.argv[1], context=context).read()
PY
cat >ask.js <<'JS'
const https = require('https'), fs = require('fs');
https.get(process.argv[2], { ca: fs.readFileSync('ca.pem') }, (answer) => answer.resume());
JS
mkdir ask
cat >ask/main.go <<'GO'
package main

import (
	"crypto/tls"
	"crypto/x509"
	"net/http"
	"os"
)

func main() {
	pem, _ := os.ReadFile("ca.pem")
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(pem)
	client := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}}
	if _, err := client.Get(os.Args[1]); err != nil {
		println(err.Error())
		os.Exit(1)
	}
}
GO
printf 'module ask\ngo 1.22\n' >ask/go.mod
(cd ask && go build -o ../ask-go .) || exit 2

for file in same own; do
    python3 serve.py "$file.pem" >port 2>/dev/null &
    server=$!
    for _ in $(seq 100); do [ -s port ] && break; sleep 0.1; done
    url=https://localhost:$(cat port)/port
    try() {
        local who=$1
        shift
        if timeout 20 "$@" >answer 2>&1; then
            echo "$who $file good" >>seen
        elif grep -qi 'self.signed' answer; then
            echo "$who $file refused" >>seen
        else
            echo "$who $file failed: $(tail -n 1 answer)" >>seen
        fi
    }
    try go ./ask-go "$url"
    try curl curl -sS --noproxy '*' --cacert ca.pem "$url"
    try python python3 ask.py "$url"
    try node node ask.js "$url"
    kill "$server"
    wait "$server" 2>/dev/null || true
    rm port
done

sort seen
diff <(sort seen) - <<'EXPECTED' || { echo "changed"; exit 1; }
curl own good
curl same refused
go own good
go same good
node own good
node same refused
python own good
python same refused
rustls own good
rustls same good
EXPECTED
