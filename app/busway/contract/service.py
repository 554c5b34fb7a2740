"""Health and status of the service."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.handlers import BrokenFile
from busway.contract.runs import CountsByState
from busway.contract.scalars import Page, Time, one_of


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
            "started or die at start, no node that leads or has workers. `GET /v1/status` has the details."
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
    """A pool of workers. A pool of an earlier generation of code only has `running` and `workers`.

    The pool `http` sends events to URLs. It has `limit` and no workers.
    """

    processes: Annotated[int, Meta(description="The intended number of workers.")] | UnsetType = UNSET
    threads: Annotated[int, Meta(description="The number of threads per worker.")] | UnsetType = UNSET
    running: Annotated[int, Meta(description="The number of running attempts of the pool.")]
    limit: (
        Annotated[int, Meta(description="The maximum number of running attempts of the pool `http`.")]
        | UnsetType
    ) = UNSET
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
    oldest: Annotated[
        float | None,
        Meta(description="Seconds for which the oldest run that is due has waited. Null: none is due."),
    ]


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


class Follower(msgspec.Struct, kw_only=True):
    """An open subscription of a connected client."""

    connection: Annotated[int, Meta(description="The number of its connection since the node started.")]
    id: Annotated[str, Meta(description="Its id on the connection, `default` without a frame.")]
    durable: Annotated[str | None, Meta(description="Its durable name.")]
    key: Annotated[
        int | None,
        Meta(description="The number of its API key, negative for a token. Null: none was needed."),
    ]
    name: Annotated[
        str | None, Meta(description="The name of the API key, or the subject of the token. Null: none.")
    ]
    types: Annotated[list[str], Meta(description="Type patterns of the results' events. Empty: all types.")]
    handlers: Annotated[list[str], Meta(description="Names of handlers. Empty: all handlers.")]
    kinds: Annotated[list[str], Meta(description="Kinds of result. Empty: all kinds.")]
    correlationid: str | None
    filter: Annotated[Any, Meta(description="The filter, or null.")]
    shadow: Annotated[bool, Meta(description="Whether it gets the results of shadow replays.")]
    live: Annotated[bool, Meta(description="Whether it has received all results.")]
    behind: Annotated[int, Meta(description="The number of results that it has not received.")]


class Recipient(msgspec.Struct, kw_only=True):
    """A subscription or a durable name, and how many results of an event it has."""

    connection: Annotated[
        int | None,
        Meta(description="The number of its connection. Null: no subscription of this node uses the name."),
    ]
    id: Annotated[str | None, Meta(description="Its id on the connection.")]
    durable: Annotated[str | None, Meta(description="Its durable name.")]
    name: Annotated[
        str | None, Meta(description="The name of the API key, or the subject of the token. Null: none.")
    ]
    selected: Annotated[
        int | None,
        Meta(
            description="How many of the results it selects. Null: not known, because no subscription of "
            "this node uses the durable name."
        ),
    ]
    received: Annotated[
        int | None, Meta(description="How many of those were sent to it since it began. Null: not known.")
    ]
    pushed_at: Annotated[
        Time | None,
        Meta(
            description="When the newest of those was sent. Null: none was, or it read them from the log "
            "later, at a time that is not kept."
        ),
    ]
    since: Annotated[Time | None, Meta(description="When the subscription began.")]
    acknowledged: Annotated[
        int | None,
        Meta(
            description="How many of the results, from after its creation, the durable name has acknowledged "
            "or passed. Null: it has no durable name."
        ),
    ]
    acknowledged_at: Annotated[
        Time | None, Meta(description="When the durable name acknowledged something last.")
    ]


class Recipients(msgspec.Struct):
    """Who has the results of an event: of each of its runs the last result."""

    results: Annotated[int, Meta(description="How many results the event has, at most 100.")]
    unfinished: Annotated[
        int, Meta(description="Runs that have not ended. While there are some, `results` is 0.")
    ]
    items: Annotated[list[Recipient], Meta(description="Those first that lack some.")]
    truncated: Annotated[bool, Meta(description="Not all subscriptions and names were looked at.")]


class FollowerList(Page[Follower]):
    """A page of the subscriptions of one node, the slowest first."""


class Disk(msgspec.Struct):
    """The database on disk."""

    database: Annotated[str, Meta(description="The file.")]
    bytes: Annotated[int, Meta(description="The size with the write-ahead log.")]
    free: Annotated[
        int | None, Meta(description="Free bytes on its disk, null if its folder cannot be reached.")
    ]


class Node(msgspec.Struct, kw_only=True):
    """A gateway that uses the database."""

    id: Annotated[int, Meta(description="Its number, 0 if the database has one gateway.")]
    name: Annotated[str, Meta(description="`--node-name`, by default the name of its host.")]
    role: Annotated[str, one_of(["all", "gateway", "worker"]), Meta(description="`--role`.")]
    version: Annotated[str, Meta(description="Of Busway.")]
    code: Annotated[
        str | None,
        Meta(
            description="Names the version of its handler code: nodes with equal files have the same. Null "
            "if it has none."
        ),
    ]
    leader: Annotated[bool, Meta(description="Whether it hands out runs. One node does.")]
    term: Annotated[
        int | None,
        Meta(
            description="Counts the leaders of the database. Null for nodes that do not lead; 0 if the "
            "database has one gateway."
        ),
    ]
    this: Annotated[bool, Meta(description="Whether it answers this request.")]
    started_at: Time
    capacity: Annotated[
        dict[str, int],
        Meta(
            description="Attempts that it runs at a time, by pool. 0 for gateways, and until it can run one."
        ),
    ]
    running: Annotated[
        dict[str, int],
        Meta(description="Attempts that it runs, by pool. Of other nodes up to 2 seconds old."),
    ]
    lag: Annotated[
        int,
        Meta(
            description="Commits of other nodes that it had not applied when it last reported, up to 2 "
            "seconds ago."
        ),
    ]


class Broker(msgspec.Struct):
    """What nodes notify each other over."""

    url: Annotated[str, Meta(description="Its servers.")]
    connected: bool
    problem: Annotated[str | None, Meta(description="Why this node is not connected to it.")]
    sent: Annotated[int, Meta(description="The number of notifications that this node sent.")]
    received: Annotated[int, Meta(description="The number of notifications from other nodes.")]
    ignored: Annotated[
        dict[str, int],
        Meta(
            description="The number of messages that are not from a node of this database, by reason: `seal` "
            "(not signed by one), `version`, `size`, `overflow`."
        ),
    ]


class Tokens(msgspec.Struct):
    """The keys of the issuer of tokens."""

    source: Annotated[str, Meta(description="The URL of its JSON Web Key Set, or the file with its keys.")]
    keys: Annotated[int, Meta(description="How many keys are known.")]
    error: Annotated[
        str | None, Meta(description="Why the set could not be read last time. Null: it could be read.")
    ]


class KeysFile(msgspec.Struct):
    """The keys file."""

    path: str
    keys: Annotated[int, Meta(description="How many keys it declares.")]
    error: Annotated[
        str | None,
        Meta(
            description="Why the file as it is now cannot be used, so that the keys that it had before stay "
            "valid. Null: it can be used."
        ),
    ]


class Status(msgspec.Struct, kw_only=True):
    """The state of the service."""

    version: str
    state: Annotated[
        str, Meta(description="`ready`, or why the gateway does not accept events.", examples=["ready"])
    ]
    started_at: Time
    access: Annotated[str, Meta(description="Whether requests need an API key or a token.")]
    tokens: Annotated[Tokens | None, Meta(description="Null without `--jwt-issuer`.")]
    keys_file: Annotated[KeysFile | None, Meta(description="Null without `--keys-file`.")]
    nodes: Annotated[list[Node], Meta(description="The gateways that use the database, oldest first.")]
    broker: Annotated[Broker | None, Meta(description="Null without `--broker-url`.")]
    workers: Workers
    committer: Committer
    queues: Queues
    files_that_do_not_import: list[BrokenFile]
    subscribers: Subscribers
    disk: Disk


class RateSample(msgspec.Struct):
    """Counts of a few seconds."""

    time: Annotated[Time, Meta(description="The end of these seconds.")]
    seconds: float
    events: Annotated[int, Meta(description="Events stored, on all nodes.")]
    results: Annotated[int, Meta(description="Results stored, on all nodes.")]
    failures: Annotated[
        int, Meta(description="Attempts that failed or were lost, on the node that answers this request.")
    ]


class Rates(msgspec.Struct):
    """The last ten minutes, about one sample every four seconds."""

    samples: Annotated[list[RateSample], Meta(description="The oldest first. None at the start.")]
