"""Builders for operations, and a database to write them to."""

import asyncio
import itertools
from contextlib import asynccontextmanager

import msgspec
import pytest
from busway.domain.event import NewEvent, to_event
from busway.domain.handler import Handler
from busway.domain.result import Kind
from busway.domain.run import Error, Outcome, Run, RunState
from busway.gateway.errors import Conflict
from busway.gateway.store.port.operations import Append, Mark, NewResult, Publish, Report, SaveHandler, Settle

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


def append(run, index, attempt=1, *, token=None):
    value = NewResult(kind=Kind.PARTIAL, index=index, data=b"%d" % index, time=NOW + 7)
    token = token or run * 1000 + attempt
    return Append(run=run, token=token, event=1, handler=1, revision=1, attempt=attempt, result=value)


def handler(name, number=0, *, rules=0, **fields):
    return SaveHandler(handler=Handler(id=number, name=name, **fields), fields={"target": "a:b"}, rules=rules)


class Store:
    """A database with handlers 1 and 2. Batches are written in this process, and reads return the answer."""

    def __init__(self, database):
        self.database = database
        self._runner = asyncio.Runner()
        self._open()
        self.write(handler("one"), handler("two"))

    def write_as(self, node, *operations):
        """Write one batch as node 1 or 2, of which the first leads. Return its replies."""
        batches = self.database.batches_of(node)
        try:
            return batches.write(over_the_wire(operations))
        finally:
            batches.close()

    def _open(self):
        self.batches, self.reader = self.database.batches(), self.database.reader(threads=1)

    def write(self, *operations, since=None):
        """Write one batch and return its replies."""
        return self.batches.write(over_the_wire(operations), since)

    def write_one(self, operation):
        reply = self.write(operation)[0]
        assert not isinstance(reply, Conflict), reply
        return reply

    def run(self, coroutine):
        return self._runner.run(coroutine)

    def read(self, name, *arguments, **named):
        async def call():
            return await getattr(self.reader, name)(*arguments, **named)

        return self.run(call())

    def results(self):
        return self.read("results", 0, 100_000, 1 << 40)

    def reopen(self):
        """Close everything and open it again."""
        self._shut()
        self._open()

    def _shut(self):
        self.reader.close()
        self.batches.close()

    def close(self):
        self._shut()
        self._runner.close()


def over_the_wire(operations):
    """Encode and decode operations, as on the way to the committer."""
    return [msgspec.msgpack.decode(msgspec.msgpack.encode(o), type=type(o)) for o in operations]


def settling(commits, operation, run, handler="one"):
    """Settle an attempt and return a future with the reply."""
    reply = asyncio.get_running_loop().create_future()
    commits.settle(operation, run, handler, reply)
    return reply


class Notified(list):
    """All commits that a listener received."""

    @property
    def runs(self):
        return [run for change in self for run in change.runs]

    @property
    def results(self):
        return [result for change in self for result in change.results]


def listening(commits):
    notified = Notified()
    commits.listen(notified.append)
    return notified


@asynccontextmanager
async def committing(database, launched=None):
    """Start commits on a database. A new one gets handlers 1 and 2."""
    commits = database.commits(launched)
    await commits.start()
    try:
        async with reading(database) as reader:
            new = not await reader.handlers()
        if new:
            await commits.change(handler("one"))
            await commits.change(handler("two"))
        yield commits
    finally:
        await commits.close(timeout=10)


@asynccontextmanager
async def reading(database, threads=1):
    """Open a reader, as a gateway does for as long as it runs."""
    reader = database.reader(threads)
    try:
        await reader.open()
        yield reader
    finally:
        await asyncio.to_thread(reader.close)


def shown(database, fault):
    """Return the method of the database that causes a fault. Skip the test if there is none."""
    if fault in database.absent:
        pytest.skip(database.absent[fault])
    return getattr(database, fault)


async def until(condition, seconds=120):
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.005)


def run_of(id_, new, seq):
    return Run(id=id_, event=to_event(new, seq), handler=1)
