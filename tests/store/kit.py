"""Builders for operations, and a migrated database to write them to."""

import asyncio
import itertools
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
from busway.domain.event import NewEvent
from busway.domain.handler import Handler
from busway.domain.result import Kind
from busway.domain.run import Error, Outcome, Run, RunState
from busway.gateway.store.core.writer import Refused, Writer
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.port.operations import Append, Mark, NewResult, Publish, Report, SaveHandler, Settle
from busway.gateway.store.sqlite import database as sqlite
from busway.gateway.store.sqlite.reader import SQLiteReader
from busway.gateway.store.sqlite.transaction import SQLiteTransaction

NOW = 1_800_000_000_000_000
_ids = itertools.count(1)
KINDS = {
    RunState.SUCCEEDED: Kind.SUCCEEDED,
    RunState.DEAD: Kind.DEAD,
    RunState.RETRYABLE: Kind.FAILED,
    RunState.CANCELLED: Kind.CANCELLED,
}


def event(id_=None, *, handlers=(1,), type_="order.created", data=b'{"n":1}', **fields):
    id_, made = (f"made-{next(_ids)}", True) if id_ is None else (id_, False)
    known = {"source": "/", "time": NOW, "accepted_at": NOW, "correlationid": id_, "made_id": made} | fields
    return NewEvent(id=id_, type=type_, data=data, handlers=tuple(handlers), **known)


def publish(*events):
    return Publish(events=list(events))


def report(outcome=Outcome.SUCCEEDED, **fields):
    known = {"revision": 1, "started_at": NOW + 10, "finished_at": NOW + 20, "pool": "process", "worker": 99}
    return Report(outcome=outcome, **(known | fields))


def settle(
    run, attempt=1, state=RunState.SUCCEEDED, *, token=None, root=0, published=(), handler=1, **fields
):
    outcome = Outcome.SUCCEEDED if state is RunState.SUCCEEDED else Outcome.FAILED
    error = None if state is RunState.SUCCEEDED else Error("ValueError", "bad", "Traceback …")
    result = NewResult(kind=KINDS[state], data=b'"done"' if error is None else None, time=NOW + 20)
    result.error = (error.type, error.message) if error else None
    known = {
        "report": report(outcome, error=error),
        "result": result,
        "lost": 0,
        "max_attempts": 5,
        "event": 1,
    }
    return Settle(
        run=run,
        token=token or run * 1000 + attempt,
        attempt=attempt,
        root=root,
        handler=handler,
        state=state,
        published=list(published),
        **(known | fields),
    )


def mark(run, attempt=1, token=None):
    token = token or run * 1000 + attempt
    return Mark(
        run=run, token=token, attempt=attempt, revision=1, started_at=NOW + 5, pool="process", worker=99
    )


def append(run, index, attempt=1):
    value = NewResult(kind=Kind.PARTIAL, index=index, data=b"%d" % index, time=NOW + 7)
    return Append(run=run, event=1, handler=1, revision=1, attempt=attempt, result=value)


def handler(name, number=0, **fields):
    return SaveHandler(handler=Handler(id=number, name=name, **fields), fields={"target": "a:b"})


class Store:
    """A database with handlers 1 and 2, its writer, and synchronous reads."""

    def __init__(self, path: Path):
        sqlite.migrate(path)
        self.path = path
        self.engine = sqlite.engine(path)
        self.connection = self.engine.connect()
        self.writer = Writer(SQLiteTransaction(self.connection))
        self.reader = SQLiteReader(path, threads=1)
        self.write(handler("one"), handler("two"))

    def write(self, *operations, since=None):
        """Write one batch and return its replies."""
        return self.writer.write(over_the_wire(operations), since)[1]

    def write_one(self, operation):
        reply = self.write(operation)[0]
        assert not isinstance(reply, Refused), reply
        return reply

    def read(self, name, *arguments):
        async def call():
            return await getattr(self.reader, name)(*arguments)

        return asyncio.run(call())

    def rows(self, query):
        return [tuple(row) for row in self.connection.exec_driver_sql(query)]

    def results(self):
        return self.read("results", 0, 100_000, 1 << 40)

    def close(self):
        self.reader.close()
        self.connection.close()
        self.engine.dispose()


def over_the_wire(operations):
    """Encode and decode operations, as on the way to the committer."""
    return [msgspec.msgpack.decode(msgspec.msgpack.encode(o), type=type(o)) for o in operations]


def settling(commits, operation, run, handler="one"):
    """Settle an attempt and return a future with the reply."""
    reply = asyncio.get_running_loop().create_future()
    commits.settle(operation, run, handler, reply)
    return reply


@asynccontextmanager
async def committing(path):
    """Commits on a fresh database with handlers 1 and 2."""
    new = not path.exists()
    sqlite.migrate(path)
    commits = GroupCommits(path)
    await commits.start()
    try:
        if new:
            await commits.change(handler("one"))
            await commits.change(handler("two"))
        yield commits
    finally:
        await commits.close(timeout=10)


async def until(condition, seconds=120):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def run_of(id_, new, seq):
    from busway.domain.event import to_event

    return Run(id=id_, event=to_event(new, seq), handler=1)
