#!/usr/bin/env python3
"""Reads protocol-sm/vectors.json with the Python client's codec: a second implementation's opinion.

    python3 check_vectors.py ../../protocol-sm/vectors.json
"""
import json
import sys

import cproxy_client as cproxy

DIRECTIONS = {
    "ctl_to_server": cproxy.CTL_TO_SERVER,
    "ctl_to_client": cproxy.CTL_TO_CLIENT,
    "proxy_to_server": cproxy.PROXY_TO_SERVER,
    "proxy_to_client": cproxy.PROXY_TO_CLIENT,
}


def same(got, expected, row):
    assert got == expected, f"{got} is not {expected} in {row}"


def fails(error, action, row):
    try:
        action()
    except error as raised:
        assert type(raised) is error, f"{raised!r} in {row}"
    else:
        raise AssertionError(f"accepted: {row}")


def as_json(value):
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, dict):
        return {key: as_json(inner) for key, inner in value.items()}
    return value


def split(kind, data):
    """One frame off the front: the message and the rest. (None, data) if it is not whole."""
    if len(data) < 2:
        return None, data
    length = cproxy.check_length(kind, data[:2])
    if len(data) < 2 + length:
        return None, data
    return cproxy.parse(kind, data[2:2 + length]), data[2 + length:]


def messages(row):
    kind, frame = DIRECTIONS[row["direction"]], bytes.fromhex(row["frame"])
    message, rest = split(kind, frame)
    same(as_json(message), row["message"], row)
    same(rest, b"", row)
    same(cproxy.frame(kind, message), frame, row)


def invalid_frames(row):
    kind, frame = DIRECTIONS[row["direction"]], bytes.fromhex(row["frame"])
    error = {"Length": cproxy.BadLength, "Malformed": cproxy.Malformed}[row["error"]]
    fails(error, lambda: split(kind, frame), row)


def streams(row):
    kind, rest = DIRECTIONS[row["direction"]], bytes.fromhex(row["hex"])
    for expected in row["messages"]:
        message, rest = split(kind, rest)
        same(as_json(message), expected, row)
    same(rest.hex(), row["rest"], row)


def flows(row):
    data = bytes.fromhex(row["hex"])
    if row["rest"] is None:
        return fails(cproxy.Violation, lambda: cproxy.Flow.split(data), row)
    datagrams, rest = cproxy.Flow.split(data)
    same([datagram.hex() for datagram in datagrams], row["datagrams"], row)
    same(rest.hex(), row["rest"], row)


def path_datagrams(row):
    """P-PATH-5. This client opens no path, but whoever writes one that does finds the numbers read as in messages."""
    cursor, flow = cproxy.Cursor(bytes.fromhex(row["hex"])), row["flow"]
    if flow is None:
        return fails(cproxy.Malformed, lambda: (cproxy.U64.decode(cursor), cproxy.U32.decode(cursor)), row)
    same(cproxy.U64.decode(cursor), flow["conn"], row)
    same(cproxy.U32.decode(cursor), flow["epoch"], row)
    same(cursor.data[cursor.at:].hex(), flow["datagram"], row)


def varints(row):
    data = bytes.fromhex(row["hex"])
    same(cproxy.U64.encode(row["value"]), data, row)
    same(cproxy.U64.decode(cproxy.Cursor(data)), row["value"], row)


def invalid_varints(row):
    cursor = cproxy.Cursor(bytes.fromhex(row["hex"]))
    fails(cproxy.Malformed, lambda: cproxy.Varint(row["bits"]).decode(cursor), row)


def prefaces(row):
    kind = {"ctl": b"C", "proxy": b"P"}[row["kind"]]
    if (row["min"], row["max"]) == (1, 1):
        same(cproxy.preface(kind).hex(), row["hex"], row)


def replies(row):
    kind, reply = bytes.fromhex(row["to"])[4:5], bytes.fromhex(row["hex"])
    if row["version"] == 0:
        fails(cproxy.Refused, lambda: cproxy.check_reply(kind, reply), row)
    else:
        cproxy.check_reply(kind, reply)


def invalid_replies(row):
    kind, reply = bytes.fromhex(row["to"])[4:5], bytes.fromhex(row["hex"])[:8]
    fails(cproxy.Malformed, lambda: cproxy.check_reply(kind, reply), row)


def handshakes(row):
    said = [bytes.fromhex(row[key]) for key in ("preface", "reply", "client_hello", "server_hello")]
    transcript = cproxy.transcript_of(*said)
    if row["channel"] is not None:
        transcript = cproxy.transcript_of(transcript, bytes.fromhex(row["channel"]))
    same(transcript.hex(), row["transcript"], row)
    token = bytes.fromhex(row["token"] or "")
    hello, _ = split(cproxy.CTL_TO_SERVER, said[2])
    same(hello["Handshake"]["Hello"]["token"], row["token"] is not None, row)
    proof = {"Handshake": {"Proof": cproxy.client_proof(token, transcript)}}
    same(cproxy.frame(cproxy.CTL_TO_SERVER, proof).hex(), row["client_proof"], row)
    welcome, _ = split(cproxy.CTL_TO_CLIENT, bytes.fromhex(row["welcome"]))
    welcome = welcome["Handshake"]["Welcome"]
    same(cproxy.welcome_proof(token, transcript, welcome), welcome["proof"], row)
    same(welcome["session"].hex(), row["session"], row)
    # The key of the handshake that began the session (P-AUTH-9).
    begun = bytes.fromhex(row["session_transcript"])
    same(begun == transcript, not welcome["resumed"], row)
    key = cproxy.session_key_of(token, begun, welcome["session"])
    same(key.hex(), row["session_key"], row)
    for conn in row["conns"]:
        if conn["channel"] is not None:
            key = cproxy.mac(bytes.fromhex(row["session_key"]), b"cproxy channel", bytes.fromhex(conn["channel"]))
        proof = cproxy.conn_proof(key, b"cproxy conn", welcome["session"], conn["conn"])
        hello = {"Hello": {"session": welcome["session"], "conn": conn["conn"], "proof": proof}}
        same(cproxy.frame(cproxy.PROXY_TO_SERVER, hello).hex(), conn["hello"], row)
        proof = cproxy.conn_proof(key, b"cproxy accept", welcome["session"], conn["conn"])
        accepted = {"Accepted": {"proof": proof}}
        same(cproxy.frame(cproxy.PROXY_TO_CLIENT, accepted).hex(), conn["accepted"], row)
    # P-PATH-4.
    key, path = bytes.fromhex(row["session_key"]), row["path"]
    said = welcome["session"] + bytes.fromhex(path["channel"])
    hello = welcome["session"] + cproxy.mac(key, b"cproxy path", said)
    same(hello.hex(), path["hello"], row)
    same(cproxy.mac(key, b"cproxy path answer", said).hex(), path["answer"], row)


def main(path):
    with open(path, encoding="utf-8") as file:
        vectors = json.load(file)
    checks = [
        messages, invalid_frames, streams, flows, path_datagrams, varints, invalid_varints, prefaces, replies,
        invalid_replies, handshakes]
    count = 0
    for check in checks:
        rows = vectors[check.__name__]
        assert rows, check.__name__
        for row in rows:
            check(row)
            count += 1
    print(f"{count} vectors agree")


if __name__ == "__main__":
    main(sys.argv[1])
