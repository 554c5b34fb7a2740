"""One batch through Busway: published in one request, its results read from a WebSocket."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

from websockets.sync.client import connect

from benchmarks.load import post
from benchmarks.row import Missing

SILENCE = 30.0  # seconds without a result after which waiting ends


@dataclass(frozen=True)
class Batch:
    """The results of a batch; times are those of `time.time_ns`.

    Attributes:
        accepted: when the 202 arrived.
        ended: when the last result arrived.
        values: what the handlers returned.
    """

    accepted: int
    ended: int
    values: list[Any]


def run_batch(url: str, type_: str, count: int) -> Batch:
    """Publish a number of events of a type with one handler, and wait for all results.

    Raises:
        Missing: an attempt failed, or results are missing.
    """
    address = url.replace("http", "ws", 1) + "/v1/subscribe?after=latest"
    with connect(address, max_size=None, max_queue=None, compression=None) as subscriber:
        subscriber.recv()  # subscribed
        post(url + "/v1/events", json.dumps([{"type": type_}] * count))
        accepted = ended = time.time_ns()
        values: list[Any] = []
        while len(values) < count:
            try:
                frame = subscriber.recv(timeout=SILENCE)
            except TimeoutError:
                raise Missing(f"only {len(values)} of {count} results came") from None
            ended = time.time_ns()
            for item in json.loads(frame)["items"]:
                if item["kind"] != "succeeded":
                    raise Missing(f"an attempt failed: {item['error']}")
                values.append(item["data"])
        return Batch(accepted, ended, values)
