"""A gateway beside a small model of it: random steps, kills among them, and then everything is compared.

MODEL_STEPS=5000 runs so many steps, in rounds of their own. MODEL_SEED=… repeats the rounds of a run.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import random
import threading
import time
import uuid
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import msgspec
import pytest

from .service import FINAL, Service, until

STEPS = int(os.environ.get("MODEL_STEPS", "0"))
SEED = int(os.environ.get("MODEL_SEED", "0")) or random.SystemRandom().getrandbits(32)
A_ROUND = 40  # steps
ROUNDS = max(1, STEPS // A_ROUND)

HANDLERS = """
from busway import handler

@handler("model.*.good")
def good(event, ctx):
    ctx.publish("model.child", event.data, id=f"child-{event.id}")
    return event.data

@handler("model.child")
def child(event):
    return event.data

@handler("model.*.bad", max_attempts=2, backoff={"initial": 0.01, "jitter": 0})
def bad(event):
    raise ValueError(event.data)

@handler("model.*.wait", paused=True)
def wait(event):
    return event.data
"""
ENDS = {"good": "succeeded", "bad": "dead", "wait": "available"}
WEIGHTS = {
    "publish": 8, "publish_again": 3, "expire": 2, "cancel": 3, "replay": 6, "cancel_replay": 2, "fire": 2,
    "restart": 1, "kill": 3,
}  # fmt: skip
numbers = itertools.count(1)


class Known(msgspec.Struct):
    """An event of the model. `ends`: the state in which its run ends up. `seq` is known once it is stored."""

    id: str
    kind: str
    n: int
    seq: int = 0
    ends: str = ""


class Wanted(msgspec.Struct):
    """A replay of the model: the events that it must run, all of them or, if it was cancelled, some."""

    id: int
    shadow: bool
    events: set[int]
    cancelled: bool = False


class Model:
    """Steps of clients and operators, and what must have come of them."""

    def __init__(self, service: Service, chance: random.Random) -> None:
        self.service, self.chance = service, chance
        self.name = f"m{next(numbers)}-{uuid.uuid4().hex[:8]}"
        self.events: list[Known] = []
        self.replays: list[Wanted] = []
        self.fired = 0
        schedule = {"name": self.name, "every": "365d", "event": {"type": self.type("good"), "data": -1}}
        self.service.ok("POST", "/v1/schedules", schedule)

    def type(self, kind: str) -> str:
        return f"model.{self.name}.{kind}"

    def body(self, known: Known, **attributes: Any) -> dict[str, Any]:
        return {"type": self.type(known.kind), "id": known.id, "data": known.n, **attributes}

    def new(self, kind: str) -> Known:
        return Known(uuid.uuid4().hex, kind, len(self.events), ends=ENDS[kind])

    def kinds(self, most: int) -> list[str]:
        return self.chance.choices(sorted(ENDS), k=self.chance.randint(1, most))

    # -- steps

    def step(self) -> str:
        """Take a step by chance. Return its name."""
        name = self.chance.choices([*WEIGHTS], [*WEIGHTS.values()])[0]
        getattr(self, name)()
        return name

    def publish(self) -> None:
        new = [self.new(kind) for kind in self.kinds(30)]
        receipts = self.service.ok("POST", "/v1/events", [self.body(each) for each in new])["items"]
        for known, receipt in zip(new, receipts, strict=True):
            assert (receipt["duplicate"], receipt["runs"]) == (False, 1)
            known.seq = receipt["seq"]
        assert [each.seq for each in new] == list(range(new[0].seq, new[0].seq + len(new)))
        self.events += new

    def publish_again(self) -> None:
        if self.events:
            known = self.chance.choice(self.events)
            receipt = self.service.ok("POST", "/v1/events", self.body(known))
            assert (receipt["duplicate"], receipt["seq"]) == (True, known.seq)

    def expire(self) -> None:
        known = self.new("wait")
        until_ = datetime.now(UTC) + timedelta(milliseconds=200)
        receipt = self.service.ok("POST", "/v1/events", self.body(known, expirytime=until_.isoformat()))
        known.seq, known.ends = receipt["seq"], "cancelled"
        self.events.append(known)

    def cancel(self) -> None:
        waiting = [known for known in self.events if known.ends == "available"]
        if waiting:
            known = self.chance.choice(waiting)
            self.service.ok("POST", f"/v1/events/{known.seq}/cancel")
            known.ends = "cancelled"

    def replay(self) -> None:
        kind, shadow = self.chance.choice(["good", "bad"]), self.chance.random() < 0.5
        seqs = sorted(known.seq for known in self.events if known.kind == kind)
        after = self.chance.choice([0, *seqs])
        before = self.chance.choice([None, *(seq for seq in seqs if seq > after)])
        wanted = {"types": [self.type(kind)], "after": after, "shadow": shadow}
        answer = self.service.post(
            f"/v1/handlers/{kind}/replay", wanted | ({"before": before} if before else {})
        )
        if answer.status_code == 409:  # so many are unfinished
            return
        matching = {seq for seq in seqs if after < seq < (before or 1 << 62)}
        if kind == "good":
            matching |= {seq for seq in self.firings() if after < seq < (before or 1 << 62)}
        self.replays.append(Wanted(answer.json()["id"], shadow, matching))

    def cancel_replay(self) -> None:
        if self.replays:
            wanted = self.chance.choice(self.replays)
            answer = self.service.post(f"/v1/replays/{wanted.id}/cancel")
            assert answer.status_code in {200, 409}, answer.text
            wanted.cancelled |= answer.status_code == 200

    def fire(self) -> None:
        self.service.ok("POST", f"/v1/schedules/{self.name}/run")
        self.fired += 1

    def restart(self) -> None:
        assert self.service.stop() == 0
        self.service.start()

    def kill(self) -> None:
        """Kill all nodes, while a request is under way. Send it again to learn whether it was stored."""
        new = [self.new(kind) for kind in self.kinds(300)]
        bodies = [self.body(each) for each in new]
        answers: list[httpx.Response] = []

        def send() -> None:
            with contextlib.suppress(httpx.HTTPError):
                answers.append(self.service.post("/v1/events", bodies))

        publishing = threading.Thread(target=send)
        publishing.start()
        time.sleep(self.chance.random() * 0.05)
        self.service.kill()
        publishing.join()
        self.service.start()
        receipts = self.service.ok("POST", "/v1/events", bodies)["items"]
        assert len({receipt["duplicate"] for receipt in receipts}) == 1  # all or none were stored
        if answers and answers[0].status_code == 202:
            assert [r["seq"] for r in receipts] == [r["seq"] for r in answers[0].json()["items"]]
            assert receipts[0]["duplicate"]
        for known, receipt in zip(new, receipts, strict=True):
            known.seq = receipt["seq"]
        self.events += new

    # -- what must have come of them

    def compare(self) -> None:
        """Wait until all is done, and compare what is stored with the model."""
        expected = {known.seq: known.ends for known in self.events}
        firings = self.firings()
        assert len(firings) == self.fired
        expected |= dict.fromkeys(firings, "succeeded")
        until(lambda: self.states() == expected, f"the runs to end as {Counter(expected.values())}")
        ended = [self.ended(wanted) for wanted in self.replays]
        self.compare_events(expected)
        self.compare_replays(ended)
        self.compare_results(expected)
        for known in self.events:  # what still waits would slow the rounds after this one
            if known.ends == "available":
                self.service.ok("POST", f"/v1/events/{known.seq}/cancel")
        self.service.ok("DELETE", f"/v1/schedules/{self.name}")

    def firings(self) -> list[int]:
        return [event["seq"] for event in self.listed("events", source=f"/schedules/{self.name}")]

    def listed(self, what: str, **query: Any) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        more: dict[str, Any] = {}
        while True:
            page = self.service.get(f"/v1/{what}", params={"limit": 1000, **query, **more}).json()
            found += page["items"]
            if page["next"] is None:
                return found
            more = {"after": page["next"]}

    def states(self) -> dict[int, str]:
        """The state of the run that each event itself started."""
        seqs = {event["seq"] for event in self.listed("events", type=f"model.{self.name}.*")}
        first = min(seqs, default=0)
        runs = self.service.runs(enough=lambda page: page[-1]["event"] < first and not page[-1]["replay"])
        own = [run for run in runs if run["event"] in seqs and run["replay"] is None]
        assert len(own) == len(seqs)
        return {run["event"]: run["state"] for run in own}

    def ended(self, wanted: Wanted) -> dict[str, Any]:
        def probe() -> Any:
            found = self.service.ok("GET", f"/v1/replays/{wanted.id}")
            return found if found["finished_at"] else None

        found: dict[str, Any] = until(probe, f"replay {wanted.id} to end")
        return found

    def compare_events(self, expected: dict[int, str]) -> None:
        stored = self.listed("events", type=f"model.{self.name}.*")
        assert {event["seq"] for event in stored} == expected.keys()
        by_seq = {event["seq"]: event for event in stored}
        for known in self.events:
            assert (by_seq[known.seq]["id"], by_seq[known.seq]["data"]) == (known.id, known.n)
        # Each event that succeeded has published one child, however often it was tried and replayed.
        good = {event["id"] for event in stored if expected[event["seq"]] == "succeeded"}
        children = self.listed("events", type="model.child")
        found = Counter(child["id"] for child in children)
        assert {f"child-{id_}" for id_ in good} <= found.keys()
        assert set(found.values()) <= {1}

    def compare_replays(self, ended: list[dict[str, Any]]) -> None:
        for wanted, found in zip(self.replays, ended, strict=True):
            runs = self.service.runs(replay=wanted.id)
            seqs = [run["event"] for run in runs]
            assert len(set(seqs)) == len(seqs), "a replay runs no event twice"
            assert found["created"] == found["matched"] == len(seqs)
            assert found["runs"] == Counter(run["state"] for run in runs)
            if wanted.cancelled:
                assert found["state"] == "cancelled"
                assert set(seqs) <= wanted.events
            else:
                assert found["state"] == "done"
                assert set(seqs) == wanted.events

    def compare_results(self, expected: dict[int, str]) -> None:
        types = {"types": f"model.{self.name}.*"}
        shadows = {wanted.id for wanted in self.replays if wanted.shadow}
        plain, all_ = self.service.results(**types), self.service.results(**types, shadow="true")
        assert [r for r in all_ if r["replay"] not in shadows] == plain
        finals = Counter(r["run"] for r in all_ if r["kind"] in FINAL)
        assert set(finals.values()) <= {1}, "a run has one end"
        own = {r["event"]["seq"]: r["kind"] for r in plain if r["kind"] in FINAL and r["replay"] is None}
        assert own == {seq: state for seq, state in expected.items() if state in FINAL}
        for wanted in self.replays:
            replayed = {r["event"]["seq"] for r in all_ if r["replay"] == wanted.id and r["kind"] in FINAL}
            assert replayed <= wanted.events
            assert wanted.cancelled or replayed == wanted.events
        both = [*all_, *self.service.results(types="model.child")]
        completed = Counter(r["event"]["correlationid"] for r in both if r["completes"])
        roots = {event["seq"]: event["id"] for event in self.listed("events", type=f"model.{self.name}.*")}
        assert all(completed[roots[seq]] == (state in FINAL) for seq, state in expected.items())


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    made = Service(tmp_path_factory.mktemp("model"), workers=2)
    made.write("model.py", HANDLERS)
    yield made.start()
    made.close()


@pytest.mark.long
@pytest.mark.parametrize("number", range(ROUNDS))
def test_a_gateway_does_what_the_model_does(service: Service, number: int) -> None:
    print(f"MODEL_SEED={SEED}")
    model = Model(service, random.Random(f"{SEED} {number}"))
    try:
        print(" ".join(model.step() for _ in range(A_ROUND)))
    finally:
        print(f"replays {[wanted.id for wanted in model.replays]}, events of {model.name}")
    model.compare()
