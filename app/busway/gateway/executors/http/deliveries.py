"""Runs attempts whose target is a URL: each is one request."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import Callable
from typing import Any

import httpcore

from busway.domain.addresses import AllowedTargets, TargetNotAllowed
from busway.domain.run import Error, Outcome
from busway.domain.signing import Secret, in_force
from busway.domain.weburl import HTTP, WebURL, read_url
from busway.gateway.executors.http.connections import Connections
from busway.gateway.executors.http.network import CannotConnect, Network
from busway.gateway.executors.http.request import Build, build
from busway.gateway.executors.http.resolver import Lookup, Resolver
from busway.gateway.executors.http.response import EXCERPT_BYTES, Answer, failed, read_answer
from busway.gateway.executors.port import (
    Assignment,
    Ended,
    Gone,
    Listener,
    Room,
    Started,
    WorkerReport,
    has_room,
)

log = logging.getLogger("busway.webhooks")

MARKED_AFTER = 0.1  # seconds after which an attempt is reported as started
GONE_REASON = "its URL answered 410 Gone"
_PARTS = 64  # parts of a body after which others get a turn
_MOST_ANSWERING = 10_000  # hosts


class _CutOff(Exception):
    """An answer was not read to its end. `answer`: what it means anyway."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer


class _Delivery:
    """One attempt. `started_at`: microseconds since 1970. `began`: seconds of the monotonic clock.

    `doubtful`: it is not known whether its host answers. `answered`: it did.
    """

    def __init__(self, assignment: Assignment, url: WebURL, began: float) -> None:
        self.assignment, self.url, self.began = assignment, url, began
        self.started_at = time.time_ns() // 1000
        self.task: asyncio.Task[Answer]
        self.mark: asyncio.TimerHandle
        self.cancelled = self.answered = self.doubtful = False


class Deliveries:
    """Sends events to URLs, in the gateway's loop.

    Args:
        targets: decides which addresses are allowed.
        most: attempts at once. Each host may have as many as there are free places: half of them if it is the
            only one, and a place for one more host is left whatever the others do. Hosts that are new, or did
            not answer the last time, have three quarters of the places together, however many they are.
        max_result_bytes: a larger answer fails its attempt.
        secrets: returns those of a handler.
        epoch: returns the name of the database.
        gone: called with handler, target and reason when a receiver wants no more events.
        lookup: as `socket.getaddrinfo`.
        build: makes the request of an attempt.
    """

    def __init__(
        self,
        targets: AllowedTargets,
        *,
        most: int,
        max_result_bytes: int,
        secrets: Callable[[str], tuple[Secret, ...]],
        epoch: Callable[[], str],
        gone: Callable[[str, str, str], None],
        lookup: Lookup = socket.getaddrinfo,
        build: Build = build,
    ) -> None:
        self._resolver = Resolver(lookup)
        self._connections = Connections(Network(targets, self._resolver), most)
        self._most, self._max_result_bytes = most, max_result_bytes
        self._secrets, self._epoch = secrets, epoch
        self._gone, self._build = gone, build
        self._under_way: dict[int, _Delivery] = {}
        self._hosts: Counter[str] = Counter()
        self._answering: dict[str, None] = {}  # hosts that answered the last time
        self._doubtful = 0  # attempts under way to others
        self._loop = asyncio.get_running_loop()
        self._report: Listener = lambda _reports: None
        self._reports: list[WorkerReport] = []
        self._refused = self._closed = False
        self._lease_end: int | None = None
        self._lease: asyncio.TimerHandle | None = None

    def listen(self, listener: Listener) -> None:
        """Set the function that receives all reports."""
        self._report = listener

    def extend_lease(self, end: int) -> None:
        """Start no attempt after `end` (nanoseconds of CLOCK_BOOTTIME), and cancel exclusive ones then."""
        ended = self._lease_has_ended()
        self._lease_end = end
        if self._lease is not None:
            self._lease.cancel()
        left = (end - time.clock_gettime_ns(time.CLOCK_BOOTTIME)) / 1e9
        self._lease = self._loop.call_later(max(0.0, left), self._end_lease)
        if ended:
            self._room()

    def _lease_has_ended(self) -> bool:
        return self._lease_end is not None and time.clock_gettime_ns(time.CLOCK_BOOTTIME) >= self._lease_end

    def _end_lease(self) -> None:
        for delivery in self._under_way.values():
            if delivery.assignment.exclusive:
                delivery.task.cancel()

    # -- attempts

    def offer(self, assignment: Assignment) -> bool:
        """Send an event. Return False if there is no room now."""
        url = read_url(assignment.target)
        doubtful = url.origin not in self._answering
        if (
            self._closed
            or self._lease_has_ended()
            or not has_room(len(self._under_way), self._hosts[url.origin], self._most)
            or (doubtful and 4 * self._doubtful >= 3 * self._most)
        ):
            self._refused = True
            return False
        loop = self._loop
        delivery = _Delivery(assignment, url, time.monotonic())
        self._under_way[assignment.token] = delivery
        self._hosts[url.origin] += 1
        delivery.doubtful = doubtful
        self._doubtful += doubtful
        delivery.mark = loop.call_later(MARKED_AFTER, self._mark, delivery)
        delivery.task = loop.create_task(self._attempt(delivery))
        delivery.task.add_done_callback(lambda done: self._end(delivery, _answer(assignment, done)))
        return True

    def cancel(self, token: int) -> bool:
        """End an attempt. Return False if it is not here. Otherwise `Gone` follows."""
        delivery = self._under_way.get(token)
        if delivery is None:
            return False
        delivery.cancelled = True
        delivery.task.cancel()
        return True

    def _mark(self, delivery: _Delivery) -> None:
        token, started_at = delivery.assignment.token, delivery.started_at
        self._send(Started(token=token, started_at=started_at, worker=None))

    async def _attempt(self, delivery: _Delivery) -> Answer:
        assignment = delivery.assignment
        try:
            async with asyncio.timeout(assignment.timeout):
                return await self._exchange(delivery)
        except TimeoutError:
            return failed("Timeout", f"ran longer than {assignment.timeout:g} s")
        except TargetNotAllowed as problem:
            return failed("TargetNotAllowed", str(problem))
        except CannotConnect as problem:
            return failed("ConnectionError", str(problem))
        except httpcore.ProtocolError as problem:
            return failed("ProtocolError", f"the answer is not HTTP: {problem or 'it was cut off'}")
        except httpcore.NetworkError as problem:
            return failed("ConnectionError", f"the connection broke: {problem or 'the target closed it'}")

    async def _exchange(self, delivery: _Delivery) -> Answer:
        assignment, url = delivery.assignment, delivery.url
        while True:  # a connection that was kept may turn out to be closed
            secrets = in_force(self._secrets(assignment.handler), time.time_ns() // 1000)
            headers, body = self._build(assignment, url, self._epoch(), secrets)
            request = httpcore.Request(
                "POST",
                httpcore.URL(scheme=url.scheme, host=url.host, port=url.port, target=url.path),
                headers=headers,
                content=body,
            )
            try:
                async with self._connections.connection(url) as connection:
                    response = await connection.handle_async_request(request)
                    delivery.answered = True
                    try:
                        return await self._read(response)
                    finally:
                        await response.aclose()
            except httpcore.ConnectionNotAvailable:
                await asyncio.sleep(0)
            except _CutOff as cut_off:
                return cut_off.answer

    async def _read(self, response: httpcore.Response) -> Answer:
        succeeded = 200 <= response.status < 300
        most = self._max_result_bytes if succeeded else EXCERPT_BYTES
        body, parts = bytearray(), 0
        async for part in response.aiter_stream():
            body += part
            if len(body) > most:
                why = f"the answer has more than {most} bytes (--max-result-bytes)"
                raise _CutOff(
                    failed("ResultTooLarge", why)
                    if succeeded
                    else read_answer(response.status, response.headers, bytes(body))
                )
            parts += 1
            if not parts % _PARTS:
                await asyncio.sleep(0)
        return read_answer(response.status, response.headers, bytes(body))

    def _end(self, delivery: _Delivery, answer: Answer) -> None:
        assignment = delivery.assignment
        delivery.mark.cancel()
        del self._under_way[assignment.token]
        self._note_host(delivery)
        if answer.gone and assignment.run:
            self._gone(assignment.handler, assignment.target, GONE_REASON)
        if delivery.cancelled:
            self._send(Gone(token=assignment.token))
        else:
            now, wall = time.time_ns() // 1000, time.monotonic() - delivery.began
            self._send(
                Ended(
                    token=assignment.token,
                    outcome=answer.outcome,
                    started_at=min(delivery.started_at, now),
                    finished_at=now,
                    worker=None,
                    wall_time=wall,
                    data=answer.data,
                    binary=answer.binary,
                    error=answer.error,
                    retry_after=answer.retry_after,
                    keeps=answer.gone,
                )
            )
        if self._refused:
            self._room()

    def _note_host(self, delivery: _Delivery) -> None:
        """Count an attempt that ended, and remember whether its host answered."""
        host = delivery.url.origin
        self._hosts[host] -= 1
        if not self._hosts[host]:
            del self._hosts[host]
        self._doubtful -= delivery.doubtful
        if delivery.answered:
            self._answering[host] = None
            if len(self._answering) > _MOST_ANSWERING:
                del self._answering[next(iter(self._answering))]
        elif not delivery.cancelled:
            self._answering.pop(host, None)

    def _room(self) -> None:
        self._refused = False
        self._send(Room())

    def _send(self, report: WorkerReport) -> None:
        """Report what happened, together with what else happens in this turn of the loop."""
        if not self._reports:
            self._loop.call_soon(self._flush)
        self._reports.append(report)

    def _flush(self) -> None:
        reports, self._reports = self._reports, []
        self._report(reports)

    # -- drain and stop

    async def drain(self, timeout: float) -> None:
        """Accept nothing new, wait up to `timeout` seconds, then end what is under way: it is lost."""
        self._closed = True
        tasks = [delivery.task for delivery in self._under_way.values()]
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=timeout)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        if self._reports:
            self._flush()

    async def stop(self) -> None:
        """End everything, and close the connections."""
        await self.drain(0)
        if self._lease is not None:
            self._lease.cancel()
        await self._connections.close()
        self._resolver.close()

    def status(self) -> dict[str, Any]:
        """Describe the pool for `/v1/status`."""
        working = {"delayed": False, "crash_loop": None, "error": None}
        return {HTTP: {"running": len(self._under_way), "limit": self._most, **working, "workers": []}}


def _answer(assignment: Assignment, done: asyncio.Task[Answer]) -> Answer:
    """Return what a task that ended has to report."""
    if done.cancelled():
        return Answer(outcome=Outcome.LOST, error=Error("Lost", "the gateway ended the delivery"))
    problem = done.exception()
    if problem is None:
        return done.result()
    log.error("run %d: its delivery failed unexpectedly", assignment.run, exc_info=problem)
    return failed(type(problem).__name__, str(problem))
