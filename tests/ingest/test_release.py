"""A refused event leaves no reference cycle: a client that sends many would keep the collector busy."""

from __future__ import annotations

import contextlib
import gc
import json

import pytest
from busway.gateway.errors import BuswayError
from busway.gateway.ingest.codecs.choosing import choose
from busway.gateway.ingest.codecs.port import Codec
from busway.gateway.turns import finish

FULL = {"specversion": "1.0", "id": "i", "source": "/", "type": "t"}
BAD: list[dict[str, object]] = [
    {"type": "\x1b"},
    {"type": ""},
    {"type": "a *"},
    {"type": 1},
    {},
    {"time": "never"},
    {"subject": "\n"},
    {"datacontenttype": "none"},
    {"data_base64": "?"},
    {"data": 1, "data_base64": "YQ=="},
    {"A": 1},
    {"a": {}},
    {"a": 1 << 40},
    {"a": 1 << 70},
    {"priority": 11},
    {"deliverat": 1, "expirytime": "x", "seq": 1},
    {"specversion": "0.3"},
    {"dataschema": 1},
]
TYPES = ("application/json", "application/cloudevents+json", "application/cloudevents-batch+json")


def codec(media_type: str) -> Codec:
    return choose([(b"content-type", media_type.encode())])


@pytest.mark.parametrize("media_type", TYPES)
def test_a_refused_event_is_freed_at_once(media_type: str) -> None:
    chosen = codec(media_type)
    bodies = [json.dumps(FULL | bad).encode() for bad in BAD] + [b"", b"{", b"1", b"[[", b"\xff", b"[" * 500]
    if "batch" in media_type:
        bodies = [b"[%b]" % body for body in bodies]
    found = {body: left_by(lambda body=body: refused(chosen, body)) for body in bodies}  # type: ignore[misc]
    assert not {body: count for body, count in found.items() if count}


def refused(chosen: Codec, body: bytes) -> None:
    with contextlib.suppress(BuswayError):
        finish(chosen.read((), body, 0, 1 << 20, None))


def left_by(work: object) -> int:
    """How many objects the collector of reference cycles has to free after some work, done twice."""
    assert callable(work)
    work()  # what is made once, such as a cached value
    gc.collect()
    gc.disable()
    try:
        work()
        return gc.collect()
    finally:
        gc.enable()
