"""`completes` is set once per root event, on the result that ended its last unfinished run."""

import json
import os
import random
from collections import Counter

import pytest
from busway.domain.run import RunState
from busway.gateway.store.port.operations import Cancel, CancelWaiting, Expire, Retry
from busway.gateway.store.port.reader import RunQuery

from tests.store.conformance.test_changing import GONE
from tests.store.kit import NOW, event, handler, publish, settle


def completes(store):
    """Return `completes` by result number."""
    return {r.number: json.loads(r.completes) for r in store.results() if r.completes}


def test_the_only_run_completes_its_root(store):
    store.write(publish(event()))
    store.write(settle(1))
    assert completes(store) == {1: {"succeeded": 1}}


@pytest.mark.parametrize("state", [RunState.SUCCEEDED, RunState.DEAD])
def test_the_last_of_several_runs_completes(store, state):
    store.write(publish(event(handlers=(1, 2))))
    store.write(settle(2, state=RunState.DEAD))
    store.write(settle(1, state=RunState.RETRYABLE))
    assert completes(store) == {}
    store.write(settle(1, attempt=2, state=state))
    assert completes(store) == {3: dict(Counter([state, RunState.DEAD]))}


def test_a_root_waits_for_all_that_its_handlers_published(store):
    store.write(publish(event()))
    store.write(
        settle(1, root=1, published=[event(root=1, parent=1, handlers=(1, 2)), event(root=1, handlers=())])
    )
    store.write(settle(2, root=1, published=[event(root=1, parent=2)]), settle(3, root=1))
    assert completes(store) == {}
    store.write(settle(4, state=RunState.DEAD))
    assert completes(store) == {4: {"succeeded": 3, "dead": 1}}


def test_published_events_without_new_runs_complete_at_once(store):
    store.write(publish(event("there", handlers=()), event()))
    store.write(
        settle(1, root=2, published=[event(root=2, parent=1, handlers=()), event("there", root=2, parent=1)])
    )
    assert completes(store) == {1: {"succeeded": 1}}


def test_a_root_without_runs_never_completes(store):
    store.write(publish(event(handlers=())))
    assert completes(store) == {}


def test_cancelling_completes(store):
    store.write(publish(event(handlers=(1, 2)), event(), event(expires_at=NOW)))
    store.write(Cancel(runs=[1, 2], now=NOW), Expire(error=GONE, now=NOW, limit=9))
    store.write(CancelWaiting(handler=1, error=GONE, now=NOW, limit=9))
    assert completes(store) == {2: {"cancelled": 2}, 3: {"cancelled": 1}, 4: {"cancelled": 1}}


def test_a_retry_after_completion_does_not_complete_again(store):
    store.write(publish(event(), event(handlers=(1, 2))))
    store.write(settle(1, state=RunState.DEAD), settle(2, state=RunState.DEAD), settle(3))
    assert len(completes(store)) == 2
    store.write(Retry(runs=[1, 2], now=NOW))
    store.write(
        settle(1, 2, root=1, published=[event(root=1, parent=1, handlers=(1, 2))], fence=-NOW),
        settle(2, 2, root=2, fence=-NOW),
    )
    store.write(settle(4, root=1), settle(5, root=1))
    assert len(completes(store)) == 2


def test_a_retry_before_completion_makes_the_run_unfinished_again(store):
    store.write(publish(event(handlers=(1, 2))))
    store.write(settle(1, state=RunState.DEAD), Retry(runs=[1], now=NOW))
    store.write(settle(2))
    assert completes(store) == {}
    store.write(settle(1, attempt=2, fence=-NOW))
    assert completes(store) == {3: {"succeeded": 2}}


class Model:
    """A naive model of the contract that examines all runs each time."""

    def __init__(self):
        self.runs = {}
        self.completed = set()
        self.results = []

    def start(self, event, root, handlers, parent=None):
        for handler_ in handlers:
            counts = parent is None or self.runs[parent]["counts"]
            made = {
                "root": root,
                "state": RunState.AVAILABLE,
                "attempt": 0,
                "handler": handler_,
                "counts": counts,
                "fence": 0,
            }
            self.runs[len(self.runs) + 1] = made

    def end(self, run, state):
        run["state"] = state
        if state not in (RunState.SUCCEEDED, RunState.DEAD, RunState.CANCELLED):
            return self.results.append(None)
        inside = [r["state"] for r in self.runs.values() if r["root"] == run["root"] and r["counts"]]
        over = all(s in (RunState.SUCCEEDED, RunState.DEAD, RunState.CANCELLED) for s in inside)
        if not over or run["root"] in self.completed or not run["counts"]:
            return self.results.append(None)
        self.completed.add(run["root"])
        return self.results.append(dict(Counter(inside)))

    def retry(self, run):
        run["state"], run["fence"] = RunState.AVAILABLE, -NOW
        run["counts"] &= run["root"] not in self.completed


class Play:
    """A random history, applied to the model and to the store."""

    def __init__(self, chance):
        self.chance, self.model, self.events = chance, Model(), 0

    def publish(self):
        handlers = tuple(self.chance.choices((1, 2), k=self.chance.choice((0, 1, 1, 2, 3))))
        self.events += 1
        self.model.start(self.events, self.events, handlers)
        return publish(event(handlers=handlers))

    def settle(self):
        id_, run = self.pick(RunState.AVAILABLE, RunState.RETRYABLE)
        state = self.chance.choice(
            (RunState.SUCCEEDED, RunState.SUCCEEDED, RunState.RETRYABLE, RunState.DEAD)
        )
        run["attempt"] += 1
        fence, run["fence"] = run["fence"], 0
        published = []
        for _ in range(self.chance.choice((0, 0, 1, 2)) if state is RunState.SUCCEEDED else 0):
            handlers = tuple(self.chance.choices((1, 2), k=self.chance.choice((0, 1, 2))))
            self.events += 1
            self.model.start(self.events, run["root"], handlers, id_)
            published.append(event(root=run["root"], parent=id_, handlers=handlers))
        self.model.end(run, state)
        return settle(
            id_, run["attempt"], state, root=run["root"], published=published, handler=run["handler"],
            fence=fence,
        )  # fmt: skip

    def refused(self):
        return handler("one")

    def cancel(self):
        ids = {self.pick(*RunState)[0] for _ in range(3)}
        for id_ in ids:
            if self.model.runs[id_]["state"] in (RunState.AVAILABLE, RunState.RETRYABLE):
                self.model.end(self.model.runs[id_], RunState.CANCELLED)
        return Cancel(runs=list(ids), now=NOW)

    def retry(self):
        id_, run = self.pick(RunState.DEAD, RunState.CANCELLED)
        self.model.retry(run)
        return Retry(runs=[id_], now=NOW)

    def pick(self, *wanted):
        return self.chance.choice([(i, r) for i, r in self.model.runs.items() if r["state"] in wanted])

    def operation(self):
        moves = [self.publish, self.settle, self.settle, self.settle, self.cancel, self.retry, self.refused]
        while True:
            try:
                return self.chance.choices(moves, (4, 4, 4, 4, 1, 2, 0.5))[0]()
            except IndexError:
                continue


@pytest.mark.parametrize("round_", range(6))
def test_random_histories_complete_as_the_contract_says(store, round_):
    seed = int(os.environ.get("SEED", random.randrange(1 << 32))) + round_
    print(f"SEED={seed - round_}")
    play = Play(random.Random(seed))
    for _ in range(60):
        store.write(*[play.operation() for _ in range(play.chance.choice((1, 3, 10)))])
    results = store.results()
    assert [r.number for r in results] == list(range(1, len(results) + 1))
    assert [json.loads(r.completes) if r.completes else None for r in results] == play.model.results
    check_runs(store, play.model)


def check_runs(store, model):
    """Runs and their counts are those of the model."""
    kept = store.read("runs", RunQuery(), 10_000)[::-1]
    assert [(run.id, run.state, run.attempt) for run in kept] == [
        (id_, run["state"], run["attempt"]) for id_, run in model.runs.items()
    ]
    counts = {}
    for run in model.runs.values():
        counts.setdefault(run["handler"], Counter())[run["state"].value] += 1
    assert store.read("counts") == counts
