"""The session under any order of frames: its invariants hold, whatever a client does."""

from __future__ import annotations

import json
from typing import Any

import pytest
from busway.domain import cursor
from busway.domain.cursor import START
from busway.domain.event import Event
from busway.domain.filter import View, compile_filter
from busway.domain.result import Kind, Result, ResultEvent
from busway.gateway.access.scopes import OPEN
from busway.gateway.subscribers.encoding import Entry
from busway.gateway.subscribers.ring import cut
from busway.gateway.subscribers.selection import predicate
from busway.gateway.subscribers.session import (
    MAX_SUBSCRIPTIONS,
    Ack,
    Open,
    Pong,
    Publish,
    Send,
    Session,
    Start,
    Subscription,
    Unsubscribe,
)
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

EPOCH = "0123456789abcdef"
TYPES = ("order.created", "order.paid", "user.created")
CODES = {
    "bad_frame", "bad_subscription", "bad_pattern", "bad_filter", "bad_cursor", "bad_event",
    "unknown_subscription", "not_allowed", "too_many",
}  # fmt: skip

ids = st.sampled_from(["a", "b", "c"])
durables = st.sampled_from([None, "me", "you"])
GOOD_FILTERS: list[Any] = [
    None,
    {"exact": {"data.even": True}},
    {"not": {"exact": {"data.even": True}}},
    {"prefix": {"type": "order."}},
    {"any": [{"exact": {"data.n": n}} for n in range(1, 40, 3)]},
]
filters = st.sampled_from([*GOOD_FILTERS, {}, {"exact": {"subject": 1}}])
patterns = st.lists(st.sampled_from(["order.*", "user.*", "**", "order.paid", "a..b"]), max_size=2)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
names = st.sampled_from(
    [
        "op",
        "id",
        "types",
        "handlers",
        "kinds",
        "filter",
        "after",
        "ref",
        "event",
        "durable",
        "shadow",
        "cursor",
        "x",
    ]
)
ops = st.sampled_from(["subscribe", "unsubscribe", "publish", "ack", "ping", "", None, 5])


def entry(number: int, type_: str = "order.created", **fields: Any) -> Entry:
    origin = ResultEvent(number, f"id-{number}", type_, "/", None, "c")
    event = Event(
        seq=number, id=origin.id, source="/", type=type_, time=number, correlationid="c", root=number,
        data=json.dumps({"n": number, "even": number % 2 == 0}).encode(),
    )  # fmt: skip
    fields = {"kind": Kind.SUCCEEDED, "data": b"1", "time": number, **fields}
    one = Result(number=number, event=origin, handler="invoice", revision=1, run=number, attempt=1, **fields)
    return Entry(one, event)


class Sessions(RuleBasedStateMachine):
    """A client that does anything, and a hub that hands over pieces of a growing log."""

    @initialize()
    def begin(self) -> None:
        self.session = Session(OPEN, EPOCH)
        self.log: list[Entry] = []
        self.opening: list[Subscription] = []
        self.following: dict[str, Subscription] = {}
        self.began: dict[Subscription, int] = {}
        self.got: dict[Subscription, list[int]] = {}
        self.sent: dict[Subscription, set[int]] = {}

    def check(self, text: str) -> dict[str, Any]:
        frame: dict[str, Any] = json.loads(text)
        assert frame["op"] in {"subscribed", "unsubscribed", "results", "error", "pong", "published"}
        if frame["op"] == "error":
            assert frame["code"] in CODES
            assert frame["detail"]
        return frame

    def apply(self, text: str) -> None:
        effect = self.session.receive(text)
        if isinstance(effect, Open):
            assert effect.subscription.id not in self.following
            self.following[effect.subscription.id] = effect.subscription
            self.opening.append(effect.subscription)
        elif isinstance(effect, Unsubscribe):
            gone = self.following.pop(effect.subscription.id)
            assert gone is effect.subscription
            assert self.check(effect.text) == {"op": "unsubscribed", "id": gone.id}
        elif isinstance(effect, Publish):
            assert isinstance(json.loads(effect.event), dict)
        elif isinstance(effect, Pong):
            assert self.check(effect.text) == {"op": "pong"}
        elif isinstance(effect, Ack):
            assert effect.subscription.durable
            assert effect.position.number <= effect.subscription.sent
        else:
            assert isinstance(effect, Send)
            self.check(effect.text)

    @rule(id_=ids, types=patterns, filter_=filters, durable=durables)
    def subscribe(self, id_: str, types: list[str], filter_: Any, durable: str | None) -> None:
        names = {other.durable for other in self.following.values()}
        code = (
            "bad_pattern" if "a..b" in types
            else "bad_filter" if filter_ in ({}, {"exact": {"subject": 1}})
            else "bad_subscription" if id_ in self.following
            else "bad_subscription" if durable in names - {None}
            else None
        )  # fmt: skip
        frame = {"op": "subscribe", "id": id_, "types": types, "filter": filter_, "durable": durable}
        before = dict(self.following)
        self.apply(json.dumps(frame))
        assert (self.following == before) is (code is not None)
        if code is not None:
            effect = self.session.receive(json.dumps(frame))
            assert isinstance(effect, Send)
            assert json.loads(effect.text)["code"] == code

    @rule(id_=ids, filter_=st.sampled_from(GOOD_FILTERS), durable=durables)
    def subscribe_at_once(self, id_: str, filter_: Any, durable: str | None) -> None:
        """As most clients do: a good frame, and it is open."""
        opening = len(self.opening)
        self.subscribe(id_, [], filter_, durable)
        if len(self.opening) > opening:
            subscription = self.opening.pop()
            assert self.session.opened(subscription, Start(START, True, START)) is not None
            self.began[subscription] = 0
            self.got[subscription] = []
            self.sent[subscription] = {0}

    @rule(data=st.data(), wrong=st.sampled_from(["", "", "", "epoch", "text"]))
    def ack_somewhere(self, data: st.DataObject, wrong: str) -> None:
        durable = [s.id for s in self.following.values() if s.durable and s.open]
        if durable:
            number = data.draw(st.integers(0, len(self.log)))
            self.ack(data.draw(st.sampled_from(durable)), number, wrong)

    @rule(id_=ids, number=st.integers(0, 60), wrong=st.sampled_from(["", "epoch", "text"]))
    def ack(self, id_: str, number: int, wrong: str) -> None:
        """The session admits what was sent under this id, and nothing else."""
        position = self.log[number - 1].result.position if 0 < number <= len(self.log) else START
        place = cursor.encode("f" * 16 if wrong == "epoch" else EPOCH, position)
        effect = self.session.receive(
            json.dumps({"op": "ack", "id": id_, "cursor": "x" if wrong == "text" else place})
        )
        subscription = self.following.get(id_)
        if isinstance(effect, Ack):
            assert (effect.subscription, effect.position) == (subscription, position)
            assert not wrong
            assert position.number <= max(self.sent[effect.subscription])
            return
        assert isinstance(effect, Send)
        code = self.check(effect.text)["code"]
        if subscription is None:
            assert code == "unknown_subscription"
        elif subscription.durable is None:
            assert code == "bad_subscription"
        else:
            assert code == "bad_cursor"
            told = max(self.sent.get(subscription, {-1}))
            assert wrong or position.number > told

    @rule(id_=ids)
    def unsubscribe(self, id_: str) -> None:
        self.apply(json.dumps({"op": "unsubscribe", "id": id_}))

    @rule(op=ops, fields=st.dictionaries(names, json_values | ids, max_size=4))
    def garbled(self, op: Any, fields: dict[str, Any]) -> None:
        self.apply(json.dumps({**fields, "op": op}))

    @rule(text=st.text() | json_values.map(json.dumps))
    def garbage(self, text: str) -> None:
        self.apply(text)

    @rule()
    def binary(self) -> None:
        effect = self.session.binary()
        assert isinstance(effect, Send)
        assert self.check(effect.text)["code"] == "bad_frame"

    @rule(types=st.lists(st.sampled_from(TYPES), min_size=1, max_size=9))
    def commit(self, types: list[str]) -> None:
        self.log += [entry(len(self.log) + n, type_) for n, type_ in enumerate(types, 1)]

    @rule(data=st.data(), recovered=st.booleans())
    def opened(self, data: st.DataObject, recovered: bool) -> None:
        if not self.log or not self.opening:
            return
        subscription = self.opening.pop()
        start = self.log[data.draw(st.integers(0, len(self.log) - 1))].result.position
        text = self.session.opened(subscription, Start(start, recovered, start))
        if self.following.get(subscription.id) is not subscription:
            assert text is None
            return
        assert text is not None
        assert self.check(text)["recovered"] is recovered
        self.began[subscription] = start.number
        self.got[subscription] = []
        self.sent[subscription] = {start.number}

    @rule(data=st.data(), quiet=st.booleans())
    def deliver(self, data: st.DataObject, quiet: bool) -> None:
        behind = [s for s in self.following.values() if s.open and s.position < len(self.log)]
        if not behind:
            return
        subscription = data.draw(st.sampled_from(behind))
        end = data.draw(st.integers(subscription.position + 1, len(self.log)))
        entries = self.log[subscription.position : end]
        piece = cut(subscription.position, entries, predicate(subscription.selection), EPOCH)
        text = self.session.deliver(subscription, piece, quiet=quiet)
        if text is None:
            assert quiet
            return
        frame = self.check(text)
        assert frame["id"] == subscription.id
        assert int(frame["cursor"].split("-")[1]) == subscription.position == subscription.sent
        self.got[subscription] += [item["event"]["seq"] for item in frame["items"]]
        self.sent[subscription].add(subscription.position)

    @rule(data=st.data())
    def deliver_out_of_place(self, data: st.DataObject) -> None:
        followed = list(self.following.values())
        if not followed or len(self.log) < 2:
            return
        subscription = data.draw(st.sampled_from(followed))
        after = data.draw(st.integers(0, len(self.log) - 1).filter(lambda n: n != subscription.position))
        piece = cut(after, [self.log[after]], predicate(subscription.selection), EPOCH)
        with pytest.raises(RuntimeError):
            self.session.deliver(subscription, piece)

    @invariant()
    def each_is_exact(self) -> None:
        if not hasattr(self, "session"):
            return
        assert self.session.subscriptions == self.following
        for subscription, got in self.got.items():
            matches = predicate(subscription.selection)
            passed = self.log[self.began[subscription] : subscription.position]
            assert got == [one.result.number for one in passed if matches(one)]
        held = [s.durable for s in self.following.values() if s.durable]
        assert len(held) == len(set(held))


TestSessions = Sessions.TestCase
TestSessions.settings = settings(derandomize=True, max_examples=150, stateful_step_count=40, deadline=None)


def test_ten_thousand_subscriptions_are_answered_and_only_so_many_kept() -> None:
    session = Session(OPEN, EPOCH)
    refused = 0
    for n in range(10_000):
        effect = session.receive(json.dumps({"op": "subscribe", "id": f"s{n}", "durable": f"d{n}"}))
        if isinstance(effect, Send):
            assert json.loads(effect.text)["code"] == "too_many"
            refused += 1
    assert len(session.subscriptions) == MAX_SUBSCRIPTIONS == 10_000 - refused
    assert isinstance(session.receive(json.dumps({"op": "unsubscribe", "id": "s0"})), Unsubscribe)
    assert isinstance(session.receive(json.dumps({"op": "subscribe", "id": "again"})), Open)


def test_a_filter_in_a_subscription_means_what_it_means_for_a_handler() -> None:
    filter_ = {"all": [{"exact": {"data.even": True}}, {"prefix": {"type": "order."}}]}
    effect = Session(OPEN, EPOCH).receive(json.dumps({"op": "subscribe", "id": "a", "filter": filter_}))
    assert isinstance(effect, Open)
    matches, test = predicate(effect.subscription.selection), compile_filter(filter_)
    for number in range(1, 30):
        one = entry(number, TYPES[number % 3])
        assert one.event is not None
        assert matches(one) is test(View(one.event))
