"""Health and status of the service."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.handlers import BrokenFile
from busway.contract.runs import CountsByState
from busway.contract.scalars import Time, one_of


class Health(msgspec.Struct):
    """The process is alive."""

    status: Annotated[str, one_of(["alive"])]


class Readiness(msgspec.Struct):
    """The gateway accepts events."""

    status: Annotated[str, one_of(["ready"])]
    trouble: Annotated[
        list[str],
        Meta(
            description="Problems that stop handlers: files that cannot be imported, workers that cannot be "
            "started or die at start. `GET /v1/status` has the details."
        ),
    ]


class Zygote(msgspec.Struct):
    """The process that imports the handlers folder and starts the workers."""

    pid: int | None
    starts_workers_by: Annotated[
        str, one_of(["fork", "exec"]), Meta(description="`exec` if importing the folder started threads.")
    ]
    restarts: int
    error: Annotated[str | None, Meta(description="The error if it cannot be started.")]


class Worker(msgspec.Struct):
    """A worker process."""

    pid: int
    state: Annotated[str, one_of(["booting", "ready", "leaving", "retired", "ending", "dead"])]
    running: Annotated[int, Meta(description="The number of running attempts.")]
    served: Annotated[int, Meta(description="The number of finished attempts.")]
    alone: Annotated[bool, Meta(description="Whether it was started for a single attempt.")]
    memory: Annotated[int | None, Meta(description="Resident memory in bytes.")]
    age: Annotated[float, Meta(description="Seconds.")]


class CrashLoop(msgspec.Struct):
    """Workers die before they run an attempt."""

    deaths: Annotated[int, Meta(description="The number of consecutive deaths.")]
    last: Annotated[str | None, Meta(description="The cause of the last death.")]
    next_start_in: Annotated[float, Meta(description="Seconds.")]


class WorkerPool(msgspec.Struct, kw_only=True):
    """A pool of workers. A pool of an earlier generation of code only has `running` and `workers`."""

    processes: Annotated[int, Meta(description="The intended number of workers.")] | UnsetType = UNSET
    threads: Annotated[int, Meta(description="The number of threads per worker.")] | UnsetType = UNSET
    running: Annotated[int, Meta(description="The number of running attempts of the pool.")]
    delayed: Annotated[bool, Meta(description="Whether a crash loop delays new workers.")] | UnsetType = UNSET
    crash_loop: CrashLoop | UnsetType | None = UNSET
    error: (
        Annotated[
            str | None,
            Meta(
                description="Why workers cannot be started or reached now, such as no memory. It is retried."
            ),
        ]
        | UnsetType
    ) = UNSET
    workers: list[Worker]


class Workers(msgspec.Struct):
    """The processes that run handler code."""

    zygote: Zygote
    parked: Annotated[int, Meta(description="The number of runs that wait for an earlier attempt to end.")]
    deaths: Annotated[
        dict[str, dict[str, int]], Meta(description="The number of dead workers by pool and cause.")
    ]
    pools: dict[str, WorkerPool]


class Committer(msgspec.Struct):
    """The process that writes to the database."""

    pid: int | None
    healthy: Annotated[bool, Meta(description="Whether the last commit succeeded.")]
    log_bytes: Annotated[int, Meta(description="Size of the write-ahead log.")]
    log_blocked: Annotated[
        bool,
        Meta(
            description="Whether another program keeps a read transaction of the database open, so that the "
            "write-ahead log cannot be emptied and grows."
        ),
    ]


class HandlerQueue(msgspec.Struct):
    """The runs of one handler."""

    handler: str
    runs: CountsByState
    waiting_in_memory: int


class Queues(msgspec.Struct):
    """Waiting operations and runs."""

    publishes_and_outcomes: Annotated[int, Meta(description="Operations that are not committed yet.")]
    handlers: list[HandlerQueue]


class Ring(msgspec.Struct):
    """The newest results, kept in memory."""

    results: int
    bytes: int


class Subscribers(msgspec.Struct):
    """The subscribers of the result log."""

    connections: int
    subscriptions: int
    live: Annotated[int, Meta(description="Subscriptions that have received all results.")]
    lagging: Annotated[int, Meta(description="Subscriptions that have not received all results yet.")]
    furthest_behind: Annotated[
        int, Meta(description="The number of results that the slowest subscription has not received.")
    ]
    head: Annotated[int, Meta(description="The number of the newest result.")]
    ring: Ring


class Disk(msgspec.Struct):
    """The database on disk."""

    database: Annotated[str, Meta(description="The file.")]
    bytes: Annotated[int, Meta(description="The size with the write-ahead log.")]
    free: Annotated[
        int | None, Meta(description="Free bytes on its disk, null if its folder cannot be reached.")
    ]


class Status(msgspec.Struct, kw_only=True):
    """The state of the service."""

    version: str
    state: Annotated[
        str, Meta(description="`ready`, or why the gateway does not accept events.", examples=["ready"])
    ]
    started_at: Time
    access: Annotated[str, Meta(description="Whether requests need an API key.")]
    workers: Workers
    committer: Committer
    queues: Queues
    files_that_do_not_import: list[BrokenFile]
    subscribers: Subscribers
    disk: Disk
