"""Turn each report of the executor into one transaction: run state, result and published events together."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable
from functools import partial

import msgspec

from busway.domain.event import Attribute, Event, NewEvent
from busway.domain.event_fields import MAX_PUBLISHED, accept
from busway.domain.handler import FieldError, Rules
from busway.domain.result import Kind
from busway.domain.run import Error, Outcome, Run, RunState
from busway.domain.times import SECOND
from busway.gateway.attempts.depth import Depth
from busway.gateway.attempts.inflight import Attempt, InFlight
from busway.gateway.attempts.notices import PauseLog, check_breaker, report_dead
from busway.gateway.attempts.outcome_log import OutcomeLog
from busway.gateway.attempts.shadow import discarded
from busway.gateway.attempts.statistics import Durations
from busway.gateway.attempts.verdict import Verdict, judge
from busway.gateway.executors.port import (
    Ended,
    Gone,
    Partial,
    Published,
    Returned,
    Room,
    Started,
    WorkerReport,
    Workers,
)
from busway.gateway.store.port.commits import Commits, Committed
from busway.gateway.store.port.operations import Append, Mark, NewResult, Report, Settle
from busway.gateway.turns import Steps, Turns, finish

log = logging.getLogger("busway.attempts")

_SUCCEEDED, _DEAD = Outcome.SUCCEEDED, RunState.DEAD  # enum members are slow to look up
_PAUSES = PauseLog()
FEW = 50  # published events that are built at once; more are built in steps
STEP = 500  # published events in one step
FIRST_DELAY, LONGEST_DELAY = 1.0, 60.0  # seconds until a failure that the store refused is sent again
_TRACE = ("traceparent", "tracestate")  # W3C Trace Context: published events belong to the same trace
_REASON = 500  # characters of why a report cannot be stored


class Progress(msgspec.Struct):
    """What a batch of reports changes for dispatch.

    `ended`: attempts whose outcome was passed to the store, each with its report. `returned`: runs whose
    attempt never started. `freed`: runs whose lingering attempt no longer runs. `room`: the executor can
    accept attempts again after it refused one.
    """

    ended: list[tuple[Attempt, Ended]] = []
    returned: list[Run] = []
    freed: list[Run] = []
    room: bool = False


class _Failing(msgspec.Struct):
    """The failure of an attempt whose report could not be recorded, until the store has it.

    `delay`: seconds until it was sent again the last time, 0 if it was sent once.
    """

    operation: Settle
    run: Run
    handler: str
    delay: float = 0.0


class Recorder:
    """Receives the executor's reports and passes the resulting operations to the store.

    Args:
        commits: writes to the store.
        rules: decide which handlers a published event starts.
        in_flight: the attempts in flight.
        workers: notified when a partial is stored, so that generators go at the store's pace.
        max_event_bytes: the limit for the data of a published event, in bytes.
        clock: microseconds since 1970.
        turns: for attempts that published many events.

    `depth` limits how deep published events may lie below their root event.
    """

    def __init__(
        self,
        commits: Commits,
        rules: Rules,
        in_flight: InFlight,
        workers: Workers,
        max_event_bytes: int,
        clock: Callable[[], int],
        turns: Turns | None = None,
    ) -> None:
        self._commits, self._rules, self._in_flight, self._clock = commits, rules, in_flight, clock
        self._workers, self._max_event_bytes = workers, max_event_bytes
        self._turns = turns or Turns()
        self._preparing = 0
        self._prepared = asyncio.Event()
        self._late: Callable[[Progress], None] = lambda _progress: None
        self._chance: Callable[[], float] = random.random
        self._refusing: set[asyncio.Task[None]] = set()
        self.depth = Depth()
        self.durations = Durations()
        self._outcome_log = OutcomeLog()
        self._failing: dict[int, _Failing] = {}  # by run

    def take(self, reports: list[WorkerReport]) -> Progress:
        """Process reports in order. Reports of attempts that were cancelled meanwhile are ignored."""
        live, progress = self._in_flight.live, Progress()
        for report in reports:
            attempt = live.get(report.token)
            if attempt is None:
                self._take_other(report, progress)
                continue
            try:
                if isinstance(report, Ended):
                    published = report.published
                    if not (published and self._comes_later(attempt, report)):
                        progress.ended.append((attempt, self._settle(attempt, report)))
                elif isinstance(report, Partial):
                    self._append(attempt, report)
                elif isinstance(report, Started):
                    self._mark(attempt, report)
                elif isinstance(report, Returned):
                    progress.returned.append(self._in_flight.returned(attempt, died=report.died))
            except Exception as problem:  # no other report may be lost with it
                progress.ended.append((attempt, self._fail(attempt, report, problem)))
        self.durations.take(progress.ended)
        return progress

    def committed(self, change: Committed) -> None:
        """Let attempts fail whose outcomes or partials the store has refused. Call it after every commit."""
        if self._failing:
            for run in change.ended:
                self._failing.pop(run, None)
        if change.refused:
            ended = [ended for operation, why in change.refused for ended in self._refused(operation, why)]
            self.durations.take(ended)
            self._late(Progress(ended=ended))

    def listen(self, late: Callable[[Progress], None]) -> None:
        """Call `late` when attempts that published many events ended."""
        self._late = late

    async def prepared(self) -> None:
        """Wait until the outcomes of all attempts that ended were passed to the store."""
        while self._preparing:
            self._prepared.clear()
            await self._prepared.wait()

    def _comes_later(self, attempt: Attempt, ended: Ended) -> bool:
        """Return whether an attempt that published events is settled later, in steps."""
        if ended.outcome is not Outcome.SUCCEEDED:
            return False
        if self.depth.exceeded(attempt):
            self._preparing += 1
            refusing = asyncio.get_running_loop().create_task(self._refuse(attempt, ended))
            self._refusing.add(refusing)
            refusing.add_done_callback(self._refusing.discard)
            return True
        if len(ended.published) > FEW:
            self._settle_later(attempt, ended)
            return True
        return False

    async def _refuse(self, attempt: Attempt, ended: Ended) -> None:
        """Let an attempt fail whose published events are too deep. Until then it may be cancelled."""
        try:
            refused = await self.depth.refusal(attempt, ended)
            if self._in_flight.live.get(ended.token) is attempt:
                progress = Progress(ended=[(attempt, self._settle(attempt, refused))])
                self.durations.take(progress.ended)
                self._late(progress)
        finally:
            self._preparing -= 1
            self._prepared.set()

    def _settle_later(self, attempt: Attempt, ended: Ended) -> None:
        """Settle an attempt in steps. Until then it is in flight, and may be cancelled."""
        self._preparing += 1

        def failed(problem: BaseException) -> None:
            progress = Progress(ended=[(attempt, self._fail(attempt, ended, problem))])
            self.durations.take(progress.ended)
            self._late(progress)

        self._turns.start(self._steps(attempt, ended), failed)

    def _steps(self, attempt: Attempt, ended: Ended) -> Steps[None]:
        events: list[NewEvent] | None = None
        problem: FieldError | None = None
        try:
            yield
            try:
                events = yield from self._events(attempt, ended)
            except FieldError as found:
                problem = found
            yield
            if self._in_flight.live.get(ended.token) is attempt:
                progress = Progress(ended=[(attempt, self._settle(attempt, ended, events, problem))])
                self.durations.take(progress.ended)
                self._late(progress)
        finally:
            self._preparing -= 1
            self._prepared.set()

    def mark_all(self) -> None:
        """Mark all attempts of this node as running, also those that have not started."""
        now = self._clock()
        for token, attempt in self._in_flight.live.items():
            self._mark(attempt, Started(token=token, started_at=now, worker=None))

    def _take_other(self, report: WorkerReport, progress: Progress) -> None:
        """Process a report that belongs to no live attempt."""
        if isinstance(report, Room):
            self._in_flight.room.set()
            progress.room = True
        elif isinstance(report, Gone):
            freed = self._in_flight.gone(report.token)
            if freed is not None:
                progress.freed.append(freed)
        elif (trial := self._in_flight.trials.get(report.token)) is not None:
            trial.take(report)
            if isinstance(report, Partial):
                self._workers.credit(report.token, len(report.data))

    def _mark(self, attempt: Attempt, started: Started) -> None:
        self._commits.mark(
            Mark(
                run=attempt.run.id,
                token=attempt.token,
                attempt=attempt.number,
                revision=attempt.revision,
                started_at=started.started_at,
                pool=attempt.pool,
                worker=started.worker,
                fence=attempt.run.fence,
            )
        )

    def _append(self, attempt: Attempt, value: Partial) -> None:
        run = attempt.run
        stored = self._commits.append(
            Append(
                run=run.id,
                token=attempt.token,
                event=run.event.seq,
                handler=run.handler,
                revision=attempt.revision,
                attempt=attempt.number,
                result=NewResult(
                    kind=Kind.PARTIAL,
                    index=value.index,
                    data=value.data,
                    binary=value.binary,
                    time=value.time,
                ),
                fence=run.fence,
            ),
            run,
            attempt.handler,
        )
        stored.add_done_callback(partial(self._credit, attempt.token, len(value.data)))

    def _credit(self, token: int, size: int, stored: asyncio.Future[int]) -> None:
        if not stored.cancelled():
            self._workers.credit(token, size)

    def _settle(
        self,
        attempt: Attempt,
        ended: Ended,
        events: list[NewEvent] | None = None,
        problem: FieldError | None = None,
    ) -> Ended:
        """Pass an outcome to the store. Return the report that counts.

        `events` are what the attempt published, None if they are still to be built, and `problem` says why
        they are invalid.
        """
        if ended.published and events is None and problem is None:
            try:
                events = finish(self._events(attempt, ended))
            except FieldError as found:
                problem = found
        if problem is not None:
            error = Error("ValueError", f"ctx.publish: {problem}")
            ended = msgspec.structs.replace(ended, outcome=Outcome.FAILED, error=error)
        operation, run, handler = self._judged(attempt, ended, events or [])
        self._commits.settle(operation, run, handler, None if operation.breaker is None else _PAUSES)
        self._in_flight.ended(attempt, lingers=ended.lingers)
        return ended

    def _judged(self, attempt: Attempt, ended: Ended, events: list[NewEvent]) -> tuple[Settle, Run, str]:
        """Return what to pass to the store: the outcome, its run, and the name of the handler."""
        verdict = judge(attempt, ended, self._chance())
        if ended.outcome is not _SUCCEEDED:
            self._outcome_log.write(attempt, ended, verdict)
        run = attempt.run
        if run.alone is not ended.alone:
            run = msgspec.structs.replace(run, alone=ended.alone)
        published = None
        if run.replay < 0:
            events, published = [], discarded(events)
        operation = Settle(
            run=run.id,
            token=attempt.token,
            attempt=attempt.number,
            event=run.event.seq,
            root=run.event.root,
            handler=run.handler,
            state=verdict.state,
            due=verdict.due,
            lost=verdict.lost,
            max_attempts=attempt.spec.max_attempts + run.granted,
            report=_report(attempt, ended, published),
            result=_result(verdict, ended),
            published=events,
            fence=run.fence,
            rules=self._rules.version,
            lingers=ended.lingers,
        )
        if attempt.spec.breaker is not None:
            operation.breaker = check_breaker(attempt, ended, self._rules)
        if verdict.state is _DEAD:
            notices = report_dead(attempt, verdict.error, self._rules, ended.finished_at)
            operation.published, operation.notices = [*events, *notices], len(notices)
        return operation, run, attempt.handler

    # -- attempts that cannot be recorded

    def _fail(self, attempt: Attempt, report: WorkerReport, problem: BaseException) -> Ended:
        """Let an attempt fail because of an unexpected exception."""
        log.error("run %d: a report of its attempt cannot be recorded", attempt.run.id, exc_info=problem)
        ended = report if isinstance(report, Ended) else None
        return self._settle_failed(attempt, f"{type(problem).__name__}: {problem}", ended)

    def _refused(self, operation: Settle | Append, why: str) -> list[tuple[Attempt, Ended]]:
        """Let the attempt of a refused operation fail. Return it, unless it has ended or fails already."""
        attempt = self._in_flight.runs.get(operation.run)
        if attempt is None or attempt.number != operation.attempt:
            return []
        failing = self._failing.get(operation.run)
        if failing is not None:
            if failing.operation is operation:
                self._fail_later(failing, why)
            return []
        if isinstance(operation, Settle):
            return [(attempt, self._settle_failed(attempt, why, operation.report))]
        if attempt.token not in self._in_flight.live:
            return []
        return [(attempt, self._settle_failed(attempt, f"a partial result: {why}"))]

    def _settle_failed(self, attempt: Attempt, why: str, ended: Ended | Report | None = None) -> Ended:
        """Let an attempt fail, with nothing of its report except times. It counts."""
        now = self._clock()
        start, end = (ended.started_at, ended.finished_at) if ended else (now, now)
        start, end = (start, end) if 0 <= start <= end <= now + SECOND else (now, now)
        text = why[:_REASON].encode("ascii", "backslashreplace").decode()
        error = Error("InvalidReport", f"what the attempt reported cannot be stored: {text}")
        failed = Ended(attempt.token, Outcome.FAILED, start, end, None, error=error)
        if attempt.token in self._in_flight.live:
            lingers = ended.lingers if isinstance(ended, Ended) else self._workers.cancel(attempt.token)
            self._in_flight.ended(attempt, lingers=lingers)
        failing = self._failing[attempt.run.id] = _Failing(*self._judged(attempt, failed, []))
        self._fail_now(failing)
        return failed

    def _fail_now(self, failing: _Failing) -> None:
        if self._failing.get(failing.run.id) is failing:  # it was not cancelled meanwhile
            self._commits.settle(failing.operation, failing.run, failing.handler)

    def _fail_later(self, failing: _Failing, why: str) -> None:
        """Send a failure again that the store refuses, too: no attempt may follow one that is not stored."""
        if not failing.delay:
            text = "run %d: that its attempt failed cannot be stored either, it is sent again: %s"
            log.error(text, failing.run.id, why)
        failing.delay = min(failing.delay * 2 or FIRST_DELAY, LONGEST_DELAY)
        asyncio.get_running_loop().call_later(failing.delay, self._fail_now, failing)

    def _events(self, attempt: Attempt, ended: Ended) -> Steps[list[NewEvent]]:
        """Build the events that an attempt published, in steps. Return none if it did not succeed.

        Raises:
            FieldError: an event is invalid, or there are too many.
        """
        if len(ended.published) > MAX_PUBLISHED:
            raise FieldError(
                "", f"an attempt may publish {MAX_PUBLISHED} events: publish the rest in another one"
            )
        parent, now = attempt.run.event, ended.finished_at
        events: list[NewEvent] = []
        for published in ended.published:
            event = new_event(published, attempt.handler, parent, now, self._max_event_bytes)
            event.root, event.parent, event.depth = parent.root, attempt.run.id, parent.depth + 1
            events.append(event)
            if len(events) % STEP == 0:
                yield
        edition = None
        while edition is not self._rules.edition:  # a handler that was deleted meanwhile gets no run
            edition = self._rules.edition
            yield from self._rules.match_all(events)
        return events if ended.outcome is Outcome.SUCCEEDED else []


def new_event(published: Published, handler: str, parent: Event, now: int, max_bytes: int) -> NewEvent:
    """Return the event that an attempt of that handler published. `now` is in microseconds since 1970.

    Raises:
        FieldError: the event is invalid, or has more than `max_bytes` bytes of data.
    """
    if published.data is not None and len(published.data) > max_bytes:
        raise FieldError(
            "data",
            f"the data of {published.type!r} has {len(published.data)} bytes, "
            f"the limit is {max_bytes} (--max-event-bytes)",
        )
    fields: dict[str, Attribute] = {
        "type": published.type,
        "causationid": parent.id,
        "correlationid": parent.correlationid,
    }
    if parent.attributes and "traceparent" not in published.attributes:
        fields |= {name: parent.attributes[name] for name in _TRACE if name in parent.attributes}
    event = accept({**fields, **published.attributes}, published.data, now, f"/handlers/{handler}")
    event.binary = published.binary
    return event


def _report(attempt: Attempt, ended: Ended, published: str | None) -> Report:
    return Report(
        outcome=ended.outcome,
        revision=attempt.revision,
        started_at=ended.started_at,
        finished_at=ended.finished_at,
        pool=attempt.pool,
        worker=ended.worker,
        cpu_time=ended.cpu_time,
        wall_time=ended.wall_time,
        peak_memory=ended.peak_memory,
        error=ended.error,
        log=ended.log,
        published=published,
    )


def _result(verdict: Verdict, ended: Ended) -> NewResult:
    kind, error = verdict.kind, verdict.error
    if kind is Kind.SUCCEEDED:
        return NewResult(kind=kind, data=ended.data, binary=ended.binary, time=ended.finished_at)
    summary = (error.type, error.message) if error else None
    return NewResult(kind=kind, data=None, error=summary, time=ended.finished_at)


def shift(reports: list[WorkerReport], skew: int) -> None:
    """Add microseconds to the times of reports, which are those of this machine's clock."""
    for report in reports if skew else ():
        if isinstance(report, Ended):
            report.started_at += skew
            report.finished_at += skew
        elif isinstance(report, Started):
            report.started_at += skew
        elif isinstance(report, Partial):
            report.time += skew
