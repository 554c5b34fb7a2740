"""From what workers report to one transaction each: run state, result and published events together."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from functools import partial

from busway.domain.event import NewEvent
from busway.domain.event_fields import accept
from busway.domain.handler import FieldError, Rules
from busway.domain.result import Kind
from busway.domain.run import Error, Outcome
from busway.gateway.attempts.attempt import Attempt, Underway
from busway.gateway.attempts.statistics import Durations
from busway.gateway.attempts.verdict import Verdict, judge
from busway.gateway.executors.base import Ended, Partial, Published, Started, WorkerReport, Workers
from busway.gateway.store.port.commits import Commits
from busway.gateway.store.port.operations import Append, Mark, NewResult, Report, Settle


class Recorder:
    """Takes the workers' reports and hands the store what becomes of them.

    Args:
        commits: the way into the store.
        rules: which handlers a published event starts.
        underway: the attempts in hand; shared with dispatch.
        workers: told when a partial is stored, so that generators go at the store's pace.
        max_event_bytes: the most bytes of data that a published event may have.
        on_ended: told each attempt that ended, and how.
    """

    def __init__(
        self,
        commits: Commits,
        rules: Rules,
        underway: Underway,
        workers: Workers,
        max_event_bytes: int,
        on_ended: Callable[[Attempt, Ended], None],
    ) -> None:
        self._commits, self._rules, self._underway, self._workers = commits, rules, underway, workers
        self._max_event_bytes, self._on_ended = max_event_bytes, on_ended
        self._chance: Callable[[], float] = random.random
        self.durations = Durations()

    def take(self, reports: list[WorkerReport]) -> list[int]:
        """Take reports in their order; those of attempts that were cancelled meanwhile are worthless.

        Returns:
            The tokens of attempts that never started.
        """
        underway, unstarted = self._underway, []
        for report in reports:
            attempt = underway.get(report.token)
            if attempt is None:
                continue
            if isinstance(report, Ended):
                self._settle(attempt, report)
            elif isinstance(report, Partial):
                self._append(attempt, report)
            elif isinstance(report, Started):
                self._mark(attempt, report)
            else:
                unstarted.append(report.token)
        return unstarted

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

    def _settle(self, attempt: Attempt, ended: Ended) -> None:
        del self._underway[attempt.token]
        events = self._events(attempt, ended) if ended.published else []
        verdict = judge(attempt, ended, self._chance())
        run = attempt.run
        run.alone = ended.alone
        self._on_ended(attempt, ended)
        self.durations.note(attempt, ended)
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
            report=_report(attempt, ended),
            result=_result(verdict, ended),
            published=events,
            fence=run.fence,
        )
        self._commits.settle(operation, run, attempt.handler)

    def _events(self, attempt: Attempt, ended: Ended) -> list[NewEvent]:
        """Build the events that a successful attempt published; one that is not sound fails the attempt."""
        try:
            events = [self._event(attempt, published, ended.finished_at) for published in ended.published]
        except FieldError as problem:
            ended.outcome, ended.error = Outcome.FAILED, Error("ValueError", f"ctx.publish: {problem}")
            return []
        return events if ended.outcome is Outcome.SUCCEEDED else []

    def _event(self, attempt: Attempt, published: Published, now: int) -> NewEvent:
        parent = attempt.run.event
        if published.data is not None and len(published.data) > self._max_event_bytes:
            raise FieldError(
                "data",
                f"the data of {published.type!r} has {len(published.data)} bytes, "
                f"the limit is {self._max_event_bytes} (--max-event-bytes)",
            )
        fields = {"type": published.type, "causationid": parent.id, "correlationid": parent.correlationid}
        event = accept(
            {**fields, **published.attributes}, published.data, now, f"/handlers/{attempt.handler}"
        )
        event.binary = published.binary
        event.root, event.parent = parent.root, attempt.run.id
        event.handlers = self._rules.match(event)
        return event


def _report(attempt: Attempt, ended: Ended) -> Report:
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
    )


def _result(verdict: Verdict, ended: Ended) -> NewResult | None:
    kind, error = verdict.kind, verdict.error
    if kind is None:
        return None
    if kind is Kind.SUCCEEDED:
        return NewResult(kind=kind, data=ended.data, binary=ended.binary, time=ended.finished_at)
    told = (error.type, error.message) if error else None
    return NewResult(kind=kind, data=None, error=told, time=ended.finished_at)
