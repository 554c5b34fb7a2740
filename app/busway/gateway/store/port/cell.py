"""The port for several nodes on one database: their rows, the leader, and the log of commits.

All nodes on one database are a *cell*. What they learn of one another stands in the database.
"""

from __future__ import annotations

from typing import Protocol

import msgspec


class CommitChanges(msgspec.Struct, array_like=True):
    """What a commit changed, for the other nodes.

    Attributes:
        ended: runs whose attempt, or whose waiting, ended. They may wait again.
        assigned: runs whose attempt a node is to start or has started, each with the node.
        durables: durable names that a subscription took over, each with its new generation.
        keys: whether an API key was created or revoked.
        lingering: those of `ended` whose attempt may still run on the node that has it.
        stopped: runs whose attempt lingered or was cancelled, and of which nothing runs any more.
        replays: whether a replay was created or cancelled.
    """

    ended: list[int] = []
    assigned: list[tuple[int, int]] = []
    durables: list[tuple[str, int]] = []
    keys: bool = False
    lingering: list[int] = []
    stopped: list[int] = []
    replays: bool = False

    def __bool__(self) -> bool:
        return self != _NOTHING


_NOTHING = CommitChanges()


class CommitRow(msgspec.Struct, array_like=True, kw_only=True):
    """One commit: its number, the node that made it, and the newest numbers after it.

    `digest`: of the newest result. `rules`: the version of the handlers and keys.
    """

    number: int
    node: int
    event: int
    run: int
    result: int
    digest: int
    rules: int
    changes: CommitChanges


class NodeRow(msgspec.Struct, kw_only=True):
    """A node whose row is open.

    `beat` is raised every two seconds. `boot`, `pid_namespace`, `pid` and `pid_started` identify its process.
    `version`: of Busway. `processes`, `threads`: how many attempts it runs at a time in its pools, 0 until it
    can. `targets`: what its code has. `opened_at`: microseconds since 1970. `role`: `all`, `gateway` or
    `worker`. At its last renewal it had `running` attempts, by pool, and had not applied `lag` commits.
    `code`: names the version of its handler code, empty if it has none. `appeared`: counts
    versions in the order of their first appearance, 0 if it has none. `deliveries`: as `threads`, for URLs.
    """

    id: int
    name: str
    version: str
    beat: int
    boot: str
    pid_namespace: int
    pid: int
    pid_started: int
    processes: int
    threads: int
    targets: list[str]
    opened_at: int
    role: str = "all"
    running: dict[str, int] = {}
    lag: int = 0
    code: str = ""
    deliveries: int = 0
    appeared: int = 0


class Offer(msgspec.Struct, kw_only=True):
    """What a node can run: attempts at a time by pool, and its code.

    `code`: names the version of its code, empty if there is none. `catalog`: what the code defines, encoded.
    """

    processes: int = 0
    threads: int = 0
    deliveries: int = 0
    targets: list[str] = []
    code: str = ""
    catalog: bytes = b""


def capacity(offer: Offer | NodeRow) -> dict[str, int]:
    """Return how many attempts a node runs at a time, by pool."""
    return {"process": offer.processes, "thread": offer.threads, "http": offer.deliveries}


class CellState(msgspec.Struct):
    """The open nodes, the newest term, and the node that leads in it. Its row may be closed."""

    nodes: list[NodeRow]
    term: int
    leader: int


class CellLink(Protocol):
    """A connection of a node to its cell. All methods raise `Unavailable` if the database cannot be used.

    One task uses it at a time. After an error, call `open` again.

    Attributes:
        epoch: names the log. Known after `open`.
    """

    epoch: str

    async def open(self) -> None:
        """Connect, and hear of commits from now on, if the link listens."""

    async def close(self) -> None:
        """Close the connection, if it is open."""

    async def join(self, row: NodeRow) -> int:
        """Insert the row of a node. Return its id; the one in `row` does not matter."""

    async def secret(self) -> bytes:
        """Return the secret of the cell, which only its nodes know."""

    async def time(self) -> int:
        """Return the time of the database in microseconds since 1970."""

    async def renew(self, node: int, applied: int, running: dict[str, int]) -> bool:
        """Raise the beat of a node. Return False if its row is closed.

        `applied`: the newest commit that it has applied. `running`: as in `NodeRow`.
        """

    async def offer(self, node: int, offer: Offer) -> None:
        """Say what a node can run from now on, and let the others know, if the link listens."""

    async def catalog(self, number: int) -> bytes:
        """Return what a version of handler code defines, as it was offered."""

    async def catalogs_after(self, number: int) -> dict[int, bytes]:
        """Return what the versions of handler code define that appeared after one, by number."""

    async def confirm(self, node: int, rules: int) -> None:
        """Say which version of handlers and keys a node has. From the first time on, others wait for it."""

    async def leave(self, node: int) -> None:
        """Close the row of a node, and let the others know, if the link listens."""

    async def state(self) -> CellState:
        """Return the open nodes and the leader."""

    async def newest(self) -> CommitRow:
        """Return the newest commit."""

    async def commits_after(self, number: int, limit: int) -> list[CommitRow]:
        """Return commits with numbers above `number`, oldest first. Rows are kept for a time only."""

    async def end_sessions(self, node: int) -> None:
        """End what a node that is gone has open, because it may hold a lock."""

    async def wait(self, seconds: float) -> list[str]:
        """Return what nodes have notified, when one has. Nothing after `seconds`."""
