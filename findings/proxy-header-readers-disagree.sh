#!/usr/bin/env bash
# Six PROXY protocol readers, five valid kinds of header, and no two readers that agree on all of them.
#
# Expected: the PROXY protocol's specification (proxy-protocol.txt of HAProxy, 2.1 and 2.2): a v1 UNKNOWN line is
#   valid with nothing behind the word; under v2's LOCAL the receiver discards the address block; what lies between
#   the addresses and the header's length is TLVs, for each address family and for none (AF_UNSPEC); the payload
#   begins behind that length.
# Seen: each header below is followed by the payload "SSH-2.0-x". What a reader gives its user: the source address,
#   the authority TLV (where the header has one), the payload. "ok" is what the specification says.
#                              v1 UNKNOWN    v2 LOCAL          v2 IPv4      v2 UNSPEC,    v2 AF_UNIX
#                              alone         with addresses    and a TLV    a TLV only
#     proxy-header (Rust)      ok            ok                ok           ok            address not given
#     go-proxyproto (Go)       ok            gives address     ok           error         ok
#     ppp (Rust)               ok            gives address     ok           TLV lost      ok
#     proxy-protocol (Python)  ok            ok                ok           TLV lost      ok
#     proxy-protocol-js (npm)  error         gives address     TLV before   TLV before    ok
#                                                              payload      payload
#     @balena/proxy-protocol-  not asked     gives address,    ok           ok            an IPv6 address made of
#       parser (npm)                         not marked                                   the path's letters
#   A sixth header, v2 with IPv4 addresses and nothing else, is the control: all six read it alike. go-proxyproto's
#   header, ppp and proxy-protocol-js mark the address that they give under LOCAL as local, and their user has to look
#   at that mark. ppp takes the TLVs of AF_UNSPEC for address bytes, and the Python package returns before it reads
#   them. proxy-protocol-js does not use the header's length: TLVs come out as the payload's first bytes. The last
#   reader has no access to payload or TLVs, so "ok" there is about the address only.
# Why it matters to a tunnel: who writes a header cannot know the reader. Addresses without TLVs are what they all
#   read; health checks (UNKNOWN, LOCAL), Unix sockets and TLVs each break some of them, and one time the payload with
#   it.
# Versions: proxy-header 0.1.3, ppp 2.3.0 (Rust 1.95), github.com/pires/go-proxyproto v0.15.0 (Go 1.26.8),
#   proxy-protocol 0.11.3 (Python 3.11), proxy-protocol-js 4.0.6, @balena/proxy-protocol-parser 1.0.2 (Node 20);
#   2026-11-27.
#
# Needs cargo, go, python3 with venv, node, npm. Exit 0: as described. Exit 1: changed. Exit 2: cannot run here.
set -euo pipefail

tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT

mkdir -p "$tmp/go" "$tmp/rust/src"
cat >"$tmp/go/main.go" <<'GO'
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"

	"github.com/pires/go-proxyproto"
)

func main() {
	input := bufio.NewReader(os.Stdin)
	header, err := proxyproto.Read(input)
	if err != nil {
		fmt.Println(`"error"`)
		return
	}
	source, authority := "none", ""
	if header.SourceAddr != nil {
		source = header.SourceAddr.String()
	}
	if header.Command.IsLocal() && source != "none" {
		source += " marked local"
	}
	tlvs, err := header.TLVs()
	if err != nil {
		authority = "error"
	}
	for _, tlv := range tlvs {
		if tlv.Type == proxyproto.PP2_TYPE_AUTHORITY {
			authority = string(tlv.Value)
		}
	}
	payload, _ := io.ReadAll(input)
	json.NewEncoder(os.Stdout).Encode([]string{source, authority, string(payload)})
}
GO

cat >"$tmp/rust/Cargo.toml" <<'TOML'
[package]
name = "finding"
version = "0.0.0"
edition = "2021"

[dependencies]
ppp = "=2.3.0"
proxy-header = "=0.1.3"

[profile.dev]
debug = false
TOML
cat >"$tmp/rust/src/main.rs" <<'RUST'
use std::io::Read;

use ppp::{v1, v2, HeaderResult};
use proxy_header::{ParseConfig, ProxyHeader, Tlv};

fn main() {
    let mut data = Vec::new();
    std::io::stdin().read_to_end(&mut data).unwrap();
    let ppp = std::env::args().nth(1).as_deref() == Some("ppp");
    match if ppp { with_ppp(&data) } else { with_proxy_header(&data) } {
        Some((source, authority, rest)) => println!("[{source:?}, {authority:?}, {:?}]", String::from_utf8_lossy(rest)),
        None => println!("\"error\""),
    }
}

fn with_ppp(data: &[u8]) -> Option<(String, String, &[u8])> {
    match HeaderResult::parse(data) {
        HeaderResult::V1(Ok(header)) => {
            let source = match header.addresses {
                v1::Addresses::Unknown => "none".to_owned(),
                other => format!("{other:?}"),
            };
            Some((source, String::new(), &data[header.header.len()..]))
        }
        HeaderResult::V2(Ok(header)) => {
            let mut source = match header.addresses {
                v2::Addresses::Unspecified => "none".to_owned(),
                v2::Addresses::IPv4(ip) => format!("{}:{}", ip.source_address, ip.source_port),
                v2::Addresses::IPv6(ip) => format!("[{}]:{}", ip.source_address, ip.source_port),
                v2::Addresses::Unix(unix) => text(&unix.source),
            };
            if header.command == v2::Command::Local && source != "none" {
                source += " marked local";
            }
            let is_authority = |tlv: &v2::TypeLengthValue<'_>| tlv.kind == u8::from(v2::Type::Authority);
            let authority = header.tlvs().flatten().find(is_authority).map(|tlv| text(&tlv.value)).unwrap_or_default();
            Some((source, authority, &data[header.len()..]))
        }
        HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => None,
    }
}

fn with_proxy_header(data: &[u8]) -> Option<(String, String, &[u8])> {
    let (header, len) = ProxyHeader::parse(data, ParseConfig::default()).ok()?;
    let source = header.proxied_address().map_or("none".to_owned(), |addr| addr.source.to_string());
    let authority = header.tlvs().flatten().find_map(|tlv| match tlv {
        Tlv::Authority(name) => Some(name.into_owned()),
        _ => None,
    });
    Some((source, authority.unwrap_or_default(), &data[len..]))
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim_end_matches('\0').to_owned()
}
RUST

cat >"$tmp/read.js" <<'JS'
const name = process.argv[2]
const data = require('fs').readFileSync(0)
const version = data[0] === 0x50 ? 1 : 2

function withBalena() {
  const seen = require('@balena/proxy-protocol-parser').decode(data)
  return [seen.remoteAddress ? `${seen.remoteAddress}:${seen.remotePort}` : 'none', 'no access', 'no access']
}

function withProxyProtocolJs() {
  const { V1ProxyProtocol, V2ProxyProtocol } = require('proxy-protocol-js')
  if (version === 1) {
    const seen = V1ProxyProtocol.parse(data.toString('latin1'))
    return [seen.source.ipAddress, '', seen.data]
  }
  const seen = V2ProxyProtocol.parse(new Uint8Array(data))
  const address = seen.proxyAddress.sourceAddress?.address
  let source = 'none'
  if (address?.length === 4) source = `${address.join('.')}:${seen.proxyAddress.sourcePort}`
  else if (address) source = Buffer.from(address).toString('latin1').replace(/\0+$/, '')
  if (seen.command === 0 && source !== 'none') source += ' marked local'
  return [source, '', Buffer.from(seen.data).toString('latin1')]
}

try {
  console.log(JSON.stringify(name === 'balena' ? withBalena() : withProxyProtocolJs()))
} catch {
  console.log('"error"')
}
JS

cat >"$tmp/finding.py" <<'PY'
import asyncio
import json
import os
import socket
import struct
import subprocess
import sys

from proxyprotocol.detect import ProxyProtocolDetect
from proxyprotocol.reader import ProxyProtocolReader

TMP = sys.path[0]
PAYLOAD = "SSH-2.0-x"
LOCAL, PROXY = 0x20, 0x21
UNSPEC, TCP4, UNIX = 0x00, 0x11, 0x31
IPV4 = socket.inet_aton("192.0.2.7") + socket.inet_aton("198.51.100.9") + struct.pack(">HH", 4711, 22)
PATHS = b"/a".ljust(108, b"\0") + b"/b".ljust(108, b"\0")
NAME = "example.com"
TLV = struct.pack(">BH", 0x02, len(NAME)) + NAME.encode()


def v2(command, family, body):
    return b"\r\n\r\n\0\r\nQUIT\n" + struct.pack(">BBH", command, family, len(body)) + body


HEADERS = {
    "v1 UNKNOWN alone": b"PROXY UNKNOWN\r\n",
    "v2 LOCAL with addresses": v2(LOCAL, TCP4, IPV4),
    "v2 IPv4 and TLV": v2(PROXY, TCP4, IPV4 + TLV),
    "v2 UNSPEC, a TLV only": v2(PROXY, UNSPEC, TLV),
    "v2 AF_UNIX": v2(PROXY, UNIX, PATHS),
    "v2 IPv4 (control)": v2(PROXY, TCP4, IPV4),
}
VISITOR = "192.0.2.7:4711"
OK = [
    ["none", "", PAYLOAD],
    ["none", "", PAYLOAD],
    [VISITOR, NAME, PAYLOAD],
    ["none", NAME, PAYLOAD],
    ["/a", "", PAYLOAD],
    [VISITOR, "", PAYLOAD],
]
RUN_TOGETHER = TLV.decode("latin1") + PAYLOAD


def command(*words):
    def read(data):
        env = dict(os.environ, NODE_PATH=f"{TMP}/node_modules")
        done = subprocess.run(words, input=data, env=env, check=True, timeout=20, capture_output=True)
        return json.loads(done.stdout)

    return read


def python_package(data):
    async def read():
        stream = asyncio.StreamReader()
        stream.feed_data(data)
        stream.feed_eof()
        seen = await ProxyProtocolReader(ProxyProtocolDetect()).read(stream)
        source = "none"
        if isinstance(seen.peername, tuple):
            source = f"{seen.peername[0]}:{seen.peername[1]}"
        elif seen.peername is not None:
            source = seen.peername
        return [source, seen.tlv.authority or "", (await stream.read()).decode("latin1")]

    try:
        return asyncio.run(read())
    except Exception:
        return "error"


def expected(**deviations):
    """The specification's row with the given columns replaced."""
    return [deviations.get(f"c{column}", row) for column, row in enumerate(OK)]


def main():
    marked = [f"{VISITOR} marked local", "", PAYLOAD]
    hidden = ["no access", "no access"]
    table = {
        "proxy-header": (command(f"{TMP}/target/debug/finding"), expected(c4=["none", "", PAYLOAD])),
        "go-proxyproto": (command(f"{TMP}/go/finding"), expected(c1=marked, c3="error")),
        "ppp": (command(f"{TMP}/target/debug/finding", "ppp"), expected(c1=marked, c3=["none", "", PAYLOAD])),
        "proxy-protocol": (python_package, expected(c3=["none", "", PAYLOAD])),
        "proxy-protocol-js": (
            command("node", f"{TMP}/read.js", "js"),
            expected(c0="error", c1=marked, c2=[VISITOR, "", RUN_TOGETHER], c3=["none", "", RUN_TOGETHER]),
        ),
        "balena": (
            command("node", f"{TMP}/read.js", "balena"),
            [None] + [[source] + hidden for source in (VISITOR, VISITOR, "none", "2f61::0:0", VISITOR)],
        ),
    }
    changed = False
    for name, (read, row) in table.items():
        for (case, header), want in zip(HEADERS.items(), row):
            if want is None:
                continue
            got = read(header + PAYLOAD.encode())
            note = "" if got == want else f"   CHANGED, was {want}"
            changed |= bool(note)
            print(f"{name:18} {case:24} {got}{note}", flush=True)
    sys.exit(changed)


main()
PY

(
    cd "$tmp"
    python3 -m venv venv
    venv/bin/pip install proxy-protocol==0.11.3
    npm install --prefix "$tmp" --no-audit --no-fund --ignore-scripts --save-exact \
        proxy-protocol-js@4.0.6 @balena/proxy-protocol-parser@1.0.2
    cd "$tmp/go"
    export GOPATH="$tmp/gopath" GOFLAGS="-modcacherw -buildvcs=false"
    go mod init finding
    go get github.com/pires/go-proxyproto@v0.15.0
    go build -o finding .
    cd "$tmp/rust"
    CARGO_TARGET_DIR="$tmp/target" cargo build
) >"$tmp/install.log" 2>&1 || { cat "$tmp/install.log"; exit 2; }

timeout 60 "$tmp/venv/bin/python" "$tmp/finding.py"
echo "as described"
