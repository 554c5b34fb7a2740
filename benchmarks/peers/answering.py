"""The program's side of `running.Program`: it reads requests as lines of JSON and answers with readings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def answer(once: Callable[..., dict[str, float]]) -> None:
    """Report that the program is ready, then answer requests until stdin ends."""
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(once(**json.loads(line))), flush=True)
