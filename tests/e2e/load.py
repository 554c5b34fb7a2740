"""A seeded load, a subscriber that resumes, and the checks of what must hold after any fault."""

from __future__ import annotations

import random
import threading
import time
from collections import Counter
from typing import Any

import httpx
from websockets.exceptions import WebSocketException

from .linear import exactly
from .service import PATIENCE, Service, hear, say, until, until_none

HANDLERS = """
import os, time
from busway import Context, handler

@handler("load.one", max_attempts=50, backoff={"initial": 0.05, "max": 0.2})
def one(event, ctx):
    return event.data["n"]

@handler("load.one", pool="thread", max_attempts=50, backoff={"initial": 0.05, "max": 0.2})
def other(event, ctx):
    time.sleep(event.data["n"] % 7 / 1000)
    return event.data["n"]

@handler("load.tree", max_attempts=50, backoff={"initial": 0.05, "max": 0.2})
def tree(event, ctx):
    yield "first"
    if event.data["n"] % 5 == 0 and ctx.attempt == 1:
        raise ValueError("once")
    ctx.publish("load.leaf", event.data)
    ctx.publish("load.leaf", event.data)

@handler("load.leaf", max_attempts=50, backoff={"initial": 0.05, "max": 0.2})
def leaf(event):
    return event.data["n"]
"""


class Publisher(threading.Thread):
    """Publishes until it is told to stop; knows what got its 202."""

    def __init__(self, service: Service, seed: int, keys: int = 0, prefix: str = "e") -> None:
        super().__init__(daemon=True)
        self.service, self.random, self.keys = service, random.Random(seed), keys
        self.prefix = prefix  # of ids and keys, so that each publisher has its own
        self.acknowledged: dict[str, int] = {}
        self.refused = 0
        self.statuses: set[int] = set()
        self.stopping = threading.Event()
        self.start()

    def run(self) -> None:
        number = 0
        with httpx.Client(timeout=PATIENCE, verify=False) as client:
            while not self.stopping.is_set():
                events = []
                for _ in range(self.random.choice([1, 1, 1, 5, 20])):
                    number += 1
                    kind = self.random.choice(["one", "one", "tree"])
                    data = {"n": number}
                    events.append(
                        {
                            "type": f"load.{kind}",
                            "id": f"{self.prefix}{number}",
                            "source": "/load",
                            "data": data,
                        }
                        | ({"partitionkey": f"{self.prefix}{number % self.keys}"} if self.keys else {})
                    )
                self._send(client, events)
                time.sleep(self.random.random() / 30)

    def _send(self, client: httpx.Client, events: list[dict[str, Any]]) -> None:
        while not self.stopping.is_set():
            try:
                answer = client.post(self.service.url + "/v1/events", json=events)
            except httpx.TransportError:
                time.sleep(0.02)
                continue
            self.statuses.add(answer.status_code)
            if answer.status_code == 202:
                for event, receipt in zip(events, answer.json()["items"], strict=True):
                    self.acknowledged[event["id"]] = receipt["seq"]
                return
            self.refused += 1
            time.sleep(0.02)

    def finish(self) -> None:
        self.stopping.set()
        self.join(PATIENCE)
        assert not self.is_alive()


class Subscriber(threading.Thread):
    """Takes the whole log from its beginning, resuming at its cursor whenever the socket breaks."""

    def __init__(self, service: Service) -> None:
        super().__init__(daemon=True)
        self.service = service
        self.items: list[dict[str, Any]] = []
        self.cursor = "earliest"
        self.connections = 0
        self.problem: str | None = None
        self.stopping = threading.Event()
        self.start()

    def run(self) -> None:
        while not self.stopping.is_set() and self.problem is None:
            try:
                self._follow()
            except (OSError, WebSocketException, TimeoutError):
                time.sleep(0.02)

    def _follow(self) -> None:
        with self.service.connect() as socket:
            say(socket, op="subscribe", id="s", after=self.cursor)
            answer = hear(socket)
            if answer.get("code") == "unavailable":  # the database cannot be read now
                time.sleep(0.1)
                return
            if answer["op"] != "subscribed" or not answer["recovered"]:
                self.problem = f"not recovered: {answer}"
                return
            self.connections += 1
            while not self.stopping.is_set():
                try:
                    frame = hear(socket, 1)
                except TimeoutError:
                    continue  # nothing new, and perhaps the test is over
                self.items += frame["items"]
                self.cursor = frame["cursor"]

    def finish(self, head: str) -> None:
        until(
            lambda: self.problem or (self.items and self.items[-1]["cursor"] == head),
            "the subscriber to catch up",
        )
        self.stopping.set()
        self.join(PATIENCE)
        assert self.problem is None, self.problem


def check(service: Service, *clients: Publisher | Subscriber) -> None:
    """Nothing acknowledged is lost, every run ends, each result stands once and came once, in order."""
    publishers = [client for client in clients if isinstance(client, Publisher)]
    acknowledged: dict[str, int] = {}
    for publisher in publishers:
        publisher.finish()
        assert publisher.acknowledged, "nothing was published: the test shows nothing"
        acknowledged |= publisher.acknowledged
    expected = {3 if any(publisher.keys for publisher in publishers) else 2, 1}  # of load.one, of load.tree

    until_none(service.unfinished, "all runs to end")
    runs = service.runs()
    assert {r["state"] for r in runs} == {"succeeded"}, [r for r in runs if r["state"] != "succeeded"][:3]
    log = service.results()
    by_seq: dict[int, list[dict[str, Any]]] = {}
    for run in runs:
        by_seq.setdefault(run["event"], []).append(run)
    for id_, seq in acknowledged.items():
        event = service.ok("GET", f"/v1/events/{seq}") if seq % 50 == 0 else None
        assert event is None or event["id"] == id_
        assert len(by_seq[seq]) in expected, f"event {id_} has no runs"
    _check_lost(service, log)
    finals = [i["run"] for i in log if i["kind"] == "succeeded"]
    assert sorted(finals) == sorted(r["id"] for r in runs), "a run has no final result, or two"
    cursors = [i["cursor"] for i in log]
    assert len(set(cursors)) == len(cursors)
    assert [int(c.split("-")[1]) for c in cursors] == list(range(1, len(cursors) + 1)), "the log has holes"
    completes = [i["event"]["correlationid"] for i in log if i["completes"]]
    assert len(completes) == len(set(completes)), "a root event completed twice"
    assert set(completes) >= set(acknowledged), "a root event never completed"
    for client in clients:
        if isinstance(client, Subscriber):
            client.finish(cursors[-1])
            exactly(cursors, [item["cursor"] for item in client.items], "a subscriber")
            assert client.items == log


def _check_lost(service: Service, log: list[dict[str, Any]]) -> None:
    """Each lost attempt has one result, after its partials and before any result of the next attempt."""
    places = [(i["run"], i["attempt"], i["index"]) for i in log]
    twice = {place for place, count in Counter(places).items() if count > 1}
    found = [item for item, place in zip(log, places, strict=True) if place in twice]
    assert not found, f"attempts that ended twice, or have a partial twice: {found}"
    lost = {(i["run"], i["attempt"]) for i in log if i["kind"] == "lost"}
    for run in {run for run, _ in lost}:
        attempts = service.ok("GET", f"/v1/runs/{run}")["attempts"]
        expected = {(run, a["attempt"]) for a in attempts if a["outcome"] == "lost"}
        assert {(r, a) for r, a in lost if r == run} == expected
        order = [i["attempt"] for i in log if i["run"] == run]
        assert order == sorted(order), "a result of an attempt came after the next attempt"
