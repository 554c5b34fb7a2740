"""Attacks on a gateway, each with the answer that it must get. They need nothing but sockets.

python -m tests.attacks URL         all of them at the same time, again and again, until standard input ends
python -m tests.attacks URL 0.2     one after another, each again and again for 0.2 seconds
"""

from __future__ import annotations

import base64
import contextlib
import gzip
import json
import os
import socket
import struct
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterable
from pathlib import Path

PATIENCE = 120.0  # seconds
BEGIN_AFTER = 1.0  # seconds; what measures has warmed up then
HOST = b"Host: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
KEY = base64.b64encode(bytes(16)).decode()
FLOOD = """
from busway import handler

@handler("flood")
def flood(event):
    return event.data
"""
"""A handler that the attacks on streams need."""


class Target:
    """The gateway that is attacked. `url`: its address, on loopback."""

    def __init__(self, url: str) -> None:
        self.url = url

    def metrics(self) -> str:
        """Return the text of its metrics."""
        with urllib.request.urlopen(f"{self.url}/metrics", timeout=PATIENCE) as answer:
            text: str = answer.read().decode()
        return text


def handshake(*more: str, host: str = "localhost", path: str = "/v1/subscribe") -> bytes:
    lines = (f"GET {path} HTTP/1.1", f"Host: {host}", "Upgrade: websocket", "Connection: Upgrade", *more)
    return "\r\n".join([*lines, "", ""]).encode()


GOOD = (f"Sec-WebSocket-Key: {KEY}", "Sec-WebSocket-Version: 13")


def frame(opcode: int, data: bytes) -> bytes:
    return struct.pack("!BBH", 0x80 | opcode, 0x80 | 126, len(data)) + bytes(4) + data


def dial(target: Target) -> socket.socket:
    return socket.create_connection(("127.0.0.1", int(target.url.rpartition(":")[2])), PATIENCE)


def told(sock: socket.socket, enough: bytes = b"") -> bytes:
    """What the gateway says until it has said enough, or ends the connection."""
    said = b""
    try:
        while not (enough and enough in said) and (part := sock.recv(65_536)):
            said += part
    except ConnectionError:
        pass
    return said


def post(body: bytes, *lines: bytes, path: bytes = b"/v1/events") -> bytes:
    head = [b"POST %b HTTP/1.1\r\n" % path, HOST, *lines, b"Connection: close\r\n"]
    return b"".join([*head, b"Content-Length: %d\r\n\r\n" % len(body), body])


def get(target: bytes) -> bytes:
    return b"GET %b HTTP/1.1\r\n%bConnection: close\r\n\r\n" % (target, HOST)


def sends(data: bytes, enough: bytes = b"") -> Callable[[Target], bytes]:
    def attack(target: Target) -> bytes:
        with dial(target) as sock:
            sock.sendall(data)
            return told(sock, enough)

    return attack


def pours(data: bytes, enough: bytes = b"") -> Callable[[Target], bytes]:
    """Send much, and read what comes meanwhile."""

    def attack(target: Target) -> bytes:
        with dial(target) as sock:

            def send() -> None:
                with contextlib.suppress(OSError):  # the gateway has ended the connection
                    sock.sendall(data)

            sending = threading.Thread(target=send)
            sending.start()
            said = told(sock, enough)
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sending.join()
            return said

    return attack


def drips(begin: bytes, byte: bytes) -> Callable[[Target], bytes]:
    """Send a byte five times a second until the gateway has enough."""

    def attack(target: Target) -> bytes:
        with dial(target) as sock:
            sock.sendall(begin)
            end = time.monotonic() + PATIENCE
            while time.monotonic() < end:
                sock.settimeout(0.2)
                try:
                    said = sock.recv(65_536)
                except TimeoutError:
                    sock.settimeout(PATIENCE)
                    sock.sendall(byte)
                except ConnectionError:
                    return b""
                else:
                    return said
        raise AssertionError("the gateway still waits")

    return attack


def never_ends(target: Target) -> bytes:
    """A chunked body of up to 10 GB, as fast as the gateway takes it."""
    chunk = b"100000\r\n" + bytes(1 << 20) + b"\r\n"
    with dial(target) as sock:
        sock.sendall(b"POST /v1/events HTTP/1.1\r\n" + HOST + JSON + b"Transfer-Encoding: chunked\r\n\r\n")
        sent = 0
        try:
            while sent < 10_000:
                sock.sendall(chunk)
                sent += 1
        except OSError:
            pass
        if sent >= 200:
            raise AssertionError(f"the gateway read {sent} MiB")
        sock.settimeout(1)
        try:
            return told(sock)
        except TimeoutError:
            return b"413"


def reads_nothing(target: Target) -> bytes:
    """Ask for much, and read nothing of it."""
    with dial(target) as sock:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        sock.sendall(b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n")
        for _ in range(40):
            sock.sendall(b"GET /openapi.json HTTP/1.1\r\n" + HOST + b"\r\n")
        return cut(sock)


def cut(sock: socket.socket, *, reads: bool = False) -> bytes:
    """Wait until the gateway ends a connection, whatever was not read. `reads`: a byte now and then."""
    end = time.monotonic() + PATIENCE
    while not closed_there(sock):
        if time.monotonic() > end:
            raise AssertionError("the gateway still waits")
        if reads:
            sock.recv(1)
        time.sleep(0.2)
    return b"cut"


def closed_there(sock: socket.socket) -> bool:
    """Whether the program at the other end, on this machine, has closed a connection.

    The client does not see that while what was sent before is unread.
    """
    ours, theirs = f":{sock.getsockname()[1]:04X}", f":{sock.getpeername()[1]:04X}"
    for line in Path("/proc/net/tcp").read_text().splitlines():
        _, local, remote, state, *_ = line.split()
        if local.endswith(theirs) and remote.endswith(ours):
            return state != "01"  # established
    return True


def reads_a_stream_slowly(*, reads: bool) -> Callable[[Target], bytes]:
    """Open a stream of large results, and read a byte of it now and then, or nothing."""

    def attack(target: Target) -> bytes:
        with dial(target) as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            sock.sendall(b"GET /v1/subscribe/sse?types=flood HTTP/1.1\r\n" + HOST + b"\r\n")
            if b"retry: " not in (said := told(sock, b"retry: ")):
                return said
            for _ in range(40):
                sends(post(b'{"type":"flood","data":"' + b"x" * 200_000 + b'"}', JSON))(target)
            return cut(sock, reads=reads)

    return attack


def socket_says(enough: bytes, *frames: bytes, path: str = "/v1/subscribe") -> Callable[[Target], bytes]:
    def attack(target: Target) -> bytes:
        offer = "Sec-WebSocket-Extensions: permessage-deflate; client_max_window_bits"
        with dial(target) as sock:
            sock.sendall(handshake(*GOOD, offer, path=path) + b"".join(frames))
            return told(sock, enough)

    return attack


DEEP = b'{"type":"t","data":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
BOMB = gzip.compress(bytes(50_000_000))
SMUGGLED = b"GET /v1/status HTTP/1.1\r\n" + HOST + b"\r\n"
CHUNKED = b"Transfer-Encoding: chunked\r\n"
ANSI = "\x1b]0;owned\x07\x1b[31m\x9b2J\x08\r\n2026-01-01 00:00:00 INFO forged"

REFUSED = b'{"type":" "}'
PIPELINED = (
    b"POST /v1/events HTTP/1.1\r\n" + HOST + JSON + b"Content-Length: %d\r\n\r\n" % len(REFUSED) + REFUSED
)
CHUNKS = b"POST /v1/events HTTP/1.1\r\n" + HOST + JSON + CHUNKED + b"Connection: close\r\n\r\n"
MANY = b",".join(b'"k%d":1' % n for n in range(50_000))

ATTACKS: dict[str, tuple[Callable[[Target], bytes], bytes]] = {
    "slowloris on the head": (drips(b"POST /v1/events HTTP/1.1\r\nX: ", b"x"), b" 408 "),
    "slowloris on the body": (drips(post(b"x" * 90_000, JSON)[:-89_000], b"x"), b" 408 "),
    "slowloris on another body": (
        drips(post(b"x" * 90_000, JSON, path=b"/v1/handlers")[:-89_000], b"x"), b" 408 ",
    ),
    "slowloris on chunks": (
        drips(b"POST /v1/events HTTP/1.1\r\n" + HOST + JSON + CHUNKED + b"\r\n", b"1\r\nx\r\n"), b" 408 ",
    ),
    "slowloris on the head of a stream": (
        drips(b"GET /v1/subscribe/sse HTTP/1.1\r\nX: ", b"x"), b" 408 ",
    ),
    "answers that nobody reads": (reads_nothing, b"cut"),
    "a stream that nobody reads": (reads_a_stream_slowly(reads=False), b"cut"),
    "a stream that is read byte by byte": (reads_a_stream_slowly(reads=True), b"cut"),
    "100,000 levels": (sends(post(DEEP, JSON)), b" 400 "),
    "100,000 levels for a handler": (sends(post(DEEP, JSON, path=b"/v1/handlers")), b" 400 "),
    "4,301 digits": (sends(post(b'{"type":"t","data":' + b"9" * 4_301 + b"}", JSON)), b" 400 "),
    "4,301 digits for a field": (
        sends(post(b'{"type":"t","priority":' + b"9" * 4_301 + b"}", JSON)), b" 4",
    ),
    "a gzip bomb": (sends(post(BOMB, JSON, b"Content-Encoding: gzip\r\n")), b"accept-encoding: identity"),
    "a gzip bomb for a handler": (
        sends(post(BOMB[:10_000], JSON, b"Content-Encoding: gzip\r\n", path=b"/v1/handlers")), b" 415 ",
    ),
    "a gzip bomb of lines": (
        sends(post(BOMB, b"Content-Type: application/x-ndjson\r\nContent-Encoding: gzip\r\n")), b" 415 ",
    ),
    "a deflate bomb": (socket_says(b"\x03\xea", b"\xc1\x80" + bytes(4)), b"\x03\xea"),  # 1002
    "a type that stands twice": (
        sends(
            post(
                b'{"specversion":"1.0","id":"i","source":"/","type":"a","type":"b"}',
                b"Content-Type: application/cloudevents+json\r\n",
            )
        ),
        b" 422 ",
    ),
    "50,000 attributes": (
        sends(
            post(
                b'{"specversion":"1.0","id":"i","source":"/","type":"t",' + MANY + b"}",
                b"Content-Type: application/cloudevents+json\r\n",
            )
        ),
        b" 422 ",
    ),
    "5,000 requests at once that are refused": (pours(PIPELINED * 5_000 + post(REFUSED, JSON)), b" 422 "),
    "100,000 chunks of one byte": (pours(CHUNKS + b"1\r\nx\r\n" * 100_000 + b"0\r\n\r\n"), b" 400 "),
    "50,000 pings": (
        pours(handshake(*GOOD) + frame(9, b"") * 50_000 + frame(1, b"{}"), b"bad_frame"), b"bad_frame",
    ),
    "a lone surrogate": (sends(post(b'{"type":"t\\ud800"}', JSON)), b" 4"),
    "a lone surrogate as payload": (sends(post(b'{"type":"t","data":"\\udfff"}', JSON)), b" 4"),
    "10 GB in chunks": (never_ends, b"413"),
    "CL.TE": (sends(post(b"0\r\n\r\n" + SMUGGLED, JSON, CHUNKED)), b" 400 "),
    "TE.CL": (sends(post(b"5c\r\n" + SMUGGLED + b"\r\n0\r\n\r\n", JSON, CHUNKED)), b" 400 "),
    "TE.TE": (sends(b"POST / HTTP/1.1\r\n" + HOST + CHUNKED + b"Transfer-Encoding: x\r\n\r\n"), b" 400 "),
    "a hidden coding": (
        sends(b"POST / HTTP/1.1\r\n" + HOST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n"), b" 400 ",
    ),
    "a folded line": (sends(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\r\n b\r\n\r\n"), b" 400 "),
    "a bare LF": (sends(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\nY: b\r\n\r\n"), b" 400 "),
    "a bare CR": (sends(b"GET / HTTP/1.1\r\n" + HOST + b"X: a\rY: b\r\n\r\n"), b" 400 "),
    "a length with a sign": (sends(b"POST / HTTP/1.1\r\n" + HOST + b"Content-Length: +5\r\n\r\n"), b" 400 "),
    "a line end in a parameter": (
        sends(get(b"/v1/runs?after=%0d%0aSet-Cookie:%20a=b")),
        b" 400 ",
    ),
    "a key in the query string": (
        sends(get(b"/v1/status?key=bw_1_x")), b" 422 ",
    ),
    "a key in the query string of a socket": (
        socket_says(b"\x11\x30", path="/v1/subscribe?key=bw_1_x"), b"\x11\x30",
    ),
    "a null origin": (
        sends(post(b'{"type":"t"}', JSON, b"Origin: null\r\n")), b" 403 ",
    ),
    "a foreign origin": (sends(post(b'{"type":"t"}', JSON, b"Origin: https://evil.example\r\n")), b" 403 "),
    "a foreign origin's socket": (
        sends(handshake(*GOOD, "Origin: https://evil.example"), b" 403 "), b" 403 ",
    ),
    "a null origin's socket": (sends(handshake(*GOOD, "Origin: null"), b" 403 "), b" 403 "),
    "another name for this machine": (
        sends(b"GET /v1/status HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n"), b" 421 ",
    ),
    "escape sequences in a path": (
        sends(get(b"/v1/handlers/%1b%5d0%3bowned%07%0a")),
        b" 404 ",
    ),
    "escape sequences in a type": (sends(post(json.dumps({"type": ANSI}).encode(), JSON)), b" 422 "),
    "escape sequences in an id": (
        sends(post(json.dumps({"type": "t", "id": ANSI}).encode(), JSON)), b" 422 ",
    ),
    "escape sequences in a header": (sends(b"GET / HTTP/1.1\r\n" + HOST + b"X: \x1b[31m\r\n\r\n"), b" 4"),
    "escape sequences in a frame": (
        socket_says(b"bad_frame", frame(1, json.dumps({"op": ANSI}).encode())), b"bad_frame",
    ),
}  # fmt: skip


def all_at_once(target: Target, names: Iterable[str] = ATTACKS) -> dict[str, bytes | BaseException]:
    """Make attacks at the same time. Return their answers, or what went wrong."""
    answers: dict[str, bytes | BaseException] = {}

    def attack(name: str) -> None:
        try:
            answers[name] = ATTACKS[name][0](target)
        except BaseException as fault:
            answers[name] = fault

    threads = [threading.Thread(target=attack, args=(name,), daemon=True) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return answers


def wrong(answers: dict[str, bytes | BaseException]) -> dict[str, bytes | BaseException]:
    """Return the answers that are not as they must be."""
    return {
        name: answer if isinstance(answer, BaseException) else answer[:300]
        for name, answer in answers.items()
        if isinstance(answer, BaseException) or ATTACKS[name][1] not in answer
    }


def main() -> None:
    """Attack until standard input ends. Print how many attacks were made, and what was wrong."""
    target, slot = Target(sys.argv[1]), float(sys.argv[2]) if len(sys.argv) > 2 else 0.0
    faults, made = dict[str, bytes | BaseException](), 0
    ended = threading.Event()

    def attack(names: Iterable[str], until: float) -> None:
        nonlocal made
        while True:
            answers = all_at_once(target, names)
            if ended.is_set():  # the gateway may end now
                return
            made += len(answers)
            faults.update(wrong(answers))
            if time.monotonic() >= until:
                return

    print(json.dumps({"attacks": len(ATTACKS)}), flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), ended.set()), daemon=True).start()
    time.sleep(BEGIN_AFTER)
    while not ended.is_set():
        if not slot:
            attack(ATTACKS, 0)
            continue
        for name in ATTACKS:
            threading.Thread(target=attack, args=([name], time.monotonic() + slot), daemon=True).start()
            if ended.wait(slot):
                break
    print(
        json.dumps({"made": made, "wrong": {name: repr(fault) for name, fault in faults.items()}}), flush=True
    )
    os._exit(0)  # what is left waits for the gateway


if __name__ == "__main__":
    main()
