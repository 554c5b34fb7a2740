"""A real gateway that is started so that its work can be counted, and its processes."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.e2e.service import Service, clean_environment
from tests.work.traffic import HANDLERS

_KINDS = {
    "busway.gateway.store.committer": "committer",
    "busway.gateway.executors.python.child.zygote": "zygote",
}


class Observed(Service):
    """`busway serve` behind a prefix of its command line, and with more in its environment."""

    def __init__(self, folder: Path, prefix: Sequence[str], environment: dict[str, str]) -> None:
        super().__init__(folder, workers=1)
        self._prefix, self._environment = prefix, environment
        self.write("noop.py", HANDLERS)

    def command(self) -> list[str]:
        return [*self._prefix, *super().command()]

    def launch(self) -> subprocess.Popen[str]:
        # Sets and dicts of strings have the same order in every run.
        environment = clean_environment() | {"PYTHONHASHSEED": "0"} | self._environment
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(), stdout=subprocess.PIPE, stderr=log, text=True, env=environment
            )

    def threads(self) -> dict[int, str]:
        """Return which kind of process each thread of the gateway and its children belongs to."""
        assert self.process is not None
        return dict(_threads(self.process.pid, "gateway"))


@contextlib.contextmanager
def observed(
    folder: Path, prefix: Sequence[str] = (), environment: dict[str, str] | None = None
) -> Iterator[Observed]:
    """A gateway on a new database in that folder, with one worker, until the end of the block."""
    service = Observed(folder, prefix, environment or {})
    try:
        service.start()
        yield service
        assert service.stop() == 0, service.log.read_text()[-2000:]
    finally:
        service.close()


def _threads(process: int, kind: str) -> Iterator[tuple[int, str]]:
    for task in Path(f"/proc/{process}/task").iterdir():
        yield int(task.name), kind
        for child in map(int, (task / "children").read_text().split()):
            yield from _threads(child, "worker" if kind == "zygote" else _kind(child, kind))


def _kind(process: int, parent: str) -> str:
    words = Path(f"/proc/{process}/cmdline").read_bytes().decode().split("\0")
    return next((_KINDS[word] for word in words if word in _KINDS), parent)
