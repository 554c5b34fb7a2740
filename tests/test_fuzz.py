"""What comes from outside is never a fault: each reader returns a value or its own error, whatever comes.

`make fuzz SECONDS=3600` spends so long on each reader, with other bytes each time. Otherwise the same few
hundred are tried. A failure shows its input.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable
from typing import Any

import pytest
from busway.domain import cursor
from busway.domain.filter import FilterError, compile_filter
from busway.domain.pattern import PatternError, check_pattern, matcher, sample_type
from busway.gateway.access.scopes import OPEN
from busway.gateway.channel import Buffer, pack
from busway.gateway.errors import BadRequest, Invalid, TooLarge, UnsupportedMediaType
from busway.gateway.executors.python.host import checking
from busway.gateway.executors.python.wire import protocol
from busway.gateway.ingest.codecs.choosing import choose
from busway.gateway.ingest.codecs.cloudevents import BATCH, BINARY, STRUCTURED
from busway.gateway.ingest.codecs.plain import PLAIN
from busway.gateway.nodes.notifications.sealing import Seal
from busway.gateway.store.port import news
from busway.gateway.subscribers.session import Session
from busway.gateway.turns import finish
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.domain.test_filter import admits
from tests.marks import few

SECONDS = float(os.environ.get("FUZZ_SECONDS", "0"))
EXAMPLES = 200
EPOCH = "0123456789abcdef"


def codecs(data: bytes) -> None:
    head, _, body = data.partition(b"\n\n")
    headers = [
        (name.lower(), value) for name, _, value in (line.partition(b":") for line in head.split(b"\n"))
    ]
    for codec in (PLAIN, STRUCTURED, BATCH, BINARY):
        with contextlib.suppress(BadRequest, Invalid, TooLarge):
            finish(codec.read(headers, body, 1_769_860_800_000_000, 1 << 20, None))
    with contextlib.suppress(BadRequest, UnsupportedMediaType):
        choose(headers)


def patterns(data: bytes) -> None:
    try:
        text = data.decode("utf-8", "surrogatepass")  # JSON can have lone surrogates
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    try:
        check_pattern(text)
    except PatternError:
        return
    assert matcher([text])(sample_type(text))


def filters(data: bytes) -> None:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        value = data.decode("latin-1")
    try:
        compile_filter(value)
    except FilterError:
        return
    assert admits(value) in {True, False}


def cursors(data: bytes) -> None:
    text = data.decode("latin-1")
    try:
        epoch, position = cursor.decode(text)
    except cursor.CursorError:
        return
    assert cursor.decode(cursor.encode(epoch, position)) == (epoch, position)


def worker_frames(data: bytes) -> None:
    buffer = Buffer(lambda kind: 1_000)
    whole = Buffer(lambda kind: 1_000)
    frames = [frame for at in range(0, len(data), 7) for frame in buffer.feed(data[at : at + 7])]
    at_once = whole.feed(data)
    if not (buffer.problem or whole.problem):
        assert at_once == frames
    for body in (data, *(body for _, _, body in frames)):
        for decode in (protocol.decode_ended, checking.loaded):
            with contextlib.suppress(ValueError, *checking.INVALID):
                decode(body)


def session_frames(data: bytes) -> None:
    session = Session(OPEN, EPOCH)
    for part in data.split(b"\n"):
        session.receive(part.decode("utf-8", "replace"))


def node_messages(data: bytes) -> None:
    seal = Seal(EPOCH, b"secret")
    with contextlib.suppress(ValueError):
        seal.open(data)
        raise AssertionError("nobody sealed this")
    assert seal.open(seal.close(data)) == data
    with contextlib.suppress(*checking.INVALID):
        news.decode(data)


EVENT = b'{"specversion":"1.0","id":"i","source":"/","type":"order.created","data":{"a":[1,"\\u00e9"]}}'
READERS: dict[str, tuple[Callable[[bytes], None], list[bytes]]] = {
    "codecs": (
        codecs,
        [
            b"content-type: application/json\n\n" + EVENT, b"\n\n[" + EVENT + b"]",
            b"content-type: application/cloudevents+json\n\n" + EVENT,
            b"ce-specversion:1.0\nce-id:1\nce-source:/\nce-type:t\nce-time:2026-01-01T00:00:00Z\n\nbody",
        ],
    ),
    "patterns": (patterns, [b"order.*", b"order.**", b"**", "ö.*".encode()]),
    "filters": (
        filters,
        [
            b'{"exact":{"subject":"x"}}', b'{"all":[{"prefix":{"type":"a"}},{"not":{"exact":{"data.n":1}}}]}',
            b'{"any":[{"suffix":{"source":"/"}}]}',
        ],
    ),
    "cursors": (cursors, [cursor.encode(EPOCH, cursor.START).encode(), cursor.text(EPOCH, 7, 9).encode()]),
    "worker frames": (worker_frames, [pack(1, 2, b"body"), pack(1, 2) + pack(3, 4, b"x" * 50), b"\x91\x80"]),
    "session frames": (
        session_frames,
        [
            b'{"op":"subscribe","id":"a","types":["order.*"],"filter":{"exact":{"data.n":1}},"after":"latest"}',
            b'{"op":"publish","ref":1,"event":{"type":"t"}}\n{"op":"ping"}', b'{"op":"unsubscribe","id":"a"}',
            b'{"op":"ack","id":"a","cursor":"x"}',
        ],
    ),
    "node messages": (node_messages, [Seal(EPOCH, b"other").close(b"content"), b"\x01" + bytes(40)]),
}  # fmt: skip


def spoilt(seeds: list[bytes]) -> st.SearchStrategy[bytes]:
    """Bytes at random, and good input of which a part is replaced, repeated or missing."""
    some = st.binary(max_size=8) | st.sampled_from(
        [b"", b"\xed\xa0\x80", b'"', b"{", b"[" * 200, b"9" * 400, b"\0"]
    )

    @st.composite
    def changed(draw: Any) -> bytes:
        seed = draw(st.sampled_from(seeds))
        for _ in range(draw(st.integers(0, 3))):
            begin, end = sorted(draw(st.tuples(st.integers(0, len(seed)), st.integers(0, len(seed)))))
            seed = seed[:begin] + draw(some | st.just(seed[begin:end] * 2)) + seed[end:]
        return bytes(seed)

    return st.binary(max_size=200) | changed()


@pytest.mark.parametrize("name", few(READERS, "codecs"))
def test_no_input_is_a_fault(name: str) -> None:
    read, seeds = READERS[name]

    @settings(
        max_examples=EXAMPLES if not SECONDS else 5_000,
        derandomize=not SECONDS,
        deadline=None,
        database=None,
        suppress_health_check=[*HealthCheck],
    )
    @given(spoilt(seeds))
    def run(data: bytes) -> None:
        read(data)

    for seed in seeds:
        read(seed)
    end = time.monotonic() + SECONDS
    run()
    while time.monotonic() < end:
        run()
