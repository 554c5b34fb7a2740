"""When the gateway and its committer look for reference cycles."""

from __future__ import annotations

import gc


def tune() -> None:
    """Look seldom from now on: what is under way is many small objects, soon gone, and none of them cycles.

    With the interpreter's own thresholds a quarter of the committer's time for large batches went into it.
    """
    gc.freeze()
    gc.enable()
    gc.set_threshold(50_000, 20, 100)
