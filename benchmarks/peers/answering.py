"""The program's side of `running.Program`: it is asked by lines of JSON and answers with readings."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable


def answer(once: Callable[..., dict[str, float]]) -> None:
    """Say that the program is ready, then answer requests until there are no more."""
    print("{}", flush=True)
    for line in sys.stdin:
        print(json.dumps(once(**json.loads(line))), flush=True)
