"""The service itself: health and status."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.handlers import BrokenFile
from busway.contract.runs import CountsByState
from busway.contract.scalars import Time, one_of


class Health(msgspec.Struct):
    """The process answers."""

    status: Annotated[str, one_of(["alive"])]


class Readiness(msgspec.Struct):
    """The gateway takes events."""

    status: Annotated[str, one_of(["ready"])]
    trouble: Annotated[
        list[str],
        Meta(
            description="What keeps handlers from running: files that cannot be imported, workers that die "
            "at once. `GET /v1/status` has the details."
        ),
    ]


class Zygote(msgspec.Struct):
    """The process that imports the handlers folder and starts the workers."""

    pid: int | None
    starts_workers_by: Annotated[
        str, one_of(["fork", "exec"]), Meta(description="`exec` if importing the folder started threads.")
    ]
    restarts: int
    error: Annotated[str | None, Meta(description="Why it cannot be started.")]


class Worker(msgspec.Struct):
    """A worker process."""

    pid: int
    state: Annotated[str, one_of(["booting", "ready", "leaving", "retired", "ending", "dead"])]
    running: Annotated[int, Meta(description="How many attempts it runs.")]
    served: Annotated[int, Meta(description="How many attempts it has finished.")]
    alone: Annotated[bool, Meta(description="Whether it was started for one attempt alone.")]
    memory: Annotated[int | None, Meta(description="Bytes that are resident.")]
    age: Annotated[float, Meta(description="Seconds.")]


class CrashLoop(msgspec.Struct):
    """Workers die before they run an attempt."""

    deaths: Annotated[int, Meta(description="How many in a row.")]
    last: Annotated[str | None, Meta(description="How the last one ended.")]
    next_start_in: Annotated[float, Meta(description="Seconds.")]


class WorkerPool(msgspec.Struct, kw_only=True):
    """A pool of workers. A pool of an earlier generation of code only has `running` and `workers`."""

    processes: Annotated[int, Meta(description="How many workers it should have.")] | UnsetType = UNSET
    threads: Annotated[int, Meta(description="How many threads each worker has.")] | UnsetType = UNSET
    running: Annotated[int, Meta(description="How many attempts run.")]
    delayed: Annotated[bool, Meta(description="Whether a crash loop delays new workers.")] | UnsetType = UNSET
    crash_loop: CrashLoop | UnsetType | None = UNSET
    workers: list[Worker]


class Workers(msgspec.Struct):
    """Everything that runs handler code."""

    zygote: Zygote
    parked: Annotated[int, Meta(description="How many runs wait for an earlier attempt that does not end.")]
    deaths: Annotated[
        dict[str, dict[str, int]], Meta(description="For each pool, how many workers died of what cause.")
    ]
    pools: dict[str, WorkerPool]


class Committer(msgspec.Struct):
    """The process that writes to the database."""

    pid: int | None
    healthy: Annotated[bool, Meta(description="Whether the last commit succeeded.")]


class HandlerQueue(msgspec.Struct):
    """The runs of one handler."""

    handler: str
    runs: CountsByState
    waiting_in_memory: int


class Queues(msgspec.Struct):
    """What waits."""

    publishes_and_outcomes: Annotated[int, Meta(description="Operations that are not committed yet.")]
    handlers: list[HandlerQueue]


class Ring(msgspec.Struct):
    """The newest results, which are kept in memory."""

    results: int
    bytes: int


class Subscribers(msgspec.Struct):
    """Who follows the result log."""

    connections: int
    subscriptions: int
    live: Annotated[int, Meta(description="Subscriptions that have all results.")]
    lagging: Annotated[int, Meta(description="Subscriptions that do not have all results yet.")]
    furthest_behind: Annotated[
        int, Meta(description="Results that the slowest subscription does not have yet.")
    ]
    head: Annotated[int, Meta(description="The number of the newest result.")]
    ring: Ring


class Disk(msgspec.Struct):
    """The database on disk."""

    database: Annotated[str, Meta(description="The file.")]
    bytes: Annotated[int, Meta(description="Its size, with the write-ahead log.")]
    free: Annotated[int, Meta(description="Bytes that are free on its disk.")]


class Status(msgspec.Struct, kw_only=True):
    """The state of the service."""

    version: str
    state: Annotated[str, Meta(description="`ready`, or why events are not taken.", examples=["ready"])]
    started_at: Time
    access: Annotated[str, Meta(description="Whether requests need a key.")]
    workers: Workers
    committer: Committer
    queues: Queues
    files_that_do_not_import: list[BrokenFile]
    subscribers: Subscribers
    disk: Disk
