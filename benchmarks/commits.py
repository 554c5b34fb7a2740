"""What each commit of a running gateway wrote, observed from another connection."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import time
import urllib.request
from pathlib import Path
from typing import Self

_COUNT = re.compile(r"^busway_commit_operations_count (\S+)$", re.MULTILINE)


class Watch:
    """Polls the head of a gateway's database, so that it sees where each commit ended.

    Args:
        url: the gateway's, which reports the number of commits.
        path: its database.
    """

    def __init__(self, url: str, path: Path) -> None:
        self._url, self._path = url, path
        self._heads: list[tuple[int, ...]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._commits = 0

    def __enter__(self) -> Self:
        self._commits = self._count()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._commits = self._count() - self._commits

    def save(self, path: Path) -> None:
        """Write the observed commits.

        `heads` has the numbers of the newest event, run and result, and the digest, before the first commit
        and after each; `commits` the number that the gateway reports.
        """
        path.write_text(json.dumps({"heads": self._heads, "commits": self._commits}))

    def _look(self) -> None:
        connection = sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None)
        while True:
            last = self._stop.is_set()
            head = connection.execute("SELECT event, run, result, digest FROM head").fetchone()
            if not self._heads or head != self._heads[-1]:
                self._heads.append(head)
            if last:
                break
            time.sleep(0.0005)
        connection.close()

    def _count(self) -> int:
        with urllib.request.urlopen(self._url + "/metrics") as answer:
            found = _COUNT.search(answer.read().decode())
        return int(float(found[1])) if found else 0
