"""The function of `computing` in a bare loop. Requests are lines of JSON: `{"calls": 200}`."""

from __future__ import annotations

import time

from benchmarks.peers.answering import answer
from benchmarks.peers.computing import compute


def once(calls: int) -> dict[str, float]:
    """Call it a number of times, one call after another."""
    began = time.perf_counter()
    for _ in range(calls):
        compute(None)
    return {"calls_per_s": calls / (time.perf_counter() - began)}


if __name__ == "__main__":
    answer(once)
