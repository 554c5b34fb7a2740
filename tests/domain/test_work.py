"""The work of decoding, matching and filtering, counted in calls: it does not grow faster than the input."""

from __future__ import annotations

import gc
import itertools
import sys
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
from busway.domain import loopback
from busway.domain.event import NewEvent
from busway.domain.handler import Handler
from busway.domain.pattern import PatternIndex, matcher
from busway.domain.text import JSONError, decode_json, holds_huge_number
from busway.gateway.dispatch.registry import STEP, Registry


def calls(work: Callable[[], Any]) -> int:
    """Return how many functions, of Python and C, a call enters."""
    count = 0

    def entered(_frame: FrameType, event: str, _arg: Any) -> None:
        nonlocal count
        count += event in {"call", "c_call"}

    gc.disable()  # other libraries have functions that each collection calls
    sys.setprofile(entered)
    try:
        work()
    finally:
        sys.setprofile(None)
        gc.enable()
    return count


NUMBERS = {
    "309 digits that fit": (b"1" + b"0" * 308, True),
    "309 digits that do not": (b"9" * 309, False),
    "310 digits": (b"1" + b"0" * 309, False),
    "negative": (b"-1" + b"0" * 309, False),
    "a fraction": (b"0." + b"1" * 400, True),
    "an exponent": (b"1e-" + b"0" * 400 + b"1", True),
    "an exponent with plus": (b"1E+" + b"0" * 400 + b"1", True),
    "before a fraction": (b"1" + b"0" * 308 + b".5", True),
    "in a string": (b'"' + b"9" * 400 + b'"', True),
    "behind escaped quotation marks": (b'["\\\\\\"", "\\\\", ' + b"9" * 400 + b"]", False),
    "in a string with escaped quotation marks": (b'["\\\\\\" \\", ' + b"9" * 400 + b'"]', True),
    "behind a string of digits": (b'["' + b"9" * 400 + b'",' + b"9" * 310 + b"]", False),
    "in a key": (b'{"' + b"9" * 400 + b'":1}', True),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_a_number_beyond_a_double_is_refused_wherever_it_stands(name: str) -> None:
    text, fits = NUMBERS[name]
    if fits:
        decode_json(text)
    else:
        with pytest.raises(JSONError, match="number"):
            decode_json(text)


@pytest.mark.parametrize("digits", [308, 309, 310])
def test_digits_are_found_wherever_they_stand(digits: int) -> None:
    for before, after in itertools.product(range(160), (0, 1, 76, 77)):
        text = b"x" * before + b"7" * digits + b"x" * after
        assert holds_huge_number(text) is (digits >= 309), (before, after)


def test_many_long_numbers_are_looked_through_once() -> None:
    few, many = (b"[" + b",".join([b"1" * 300] * count) + b"]" for count in (10, 1000))
    assert not holds_huge_number(many)
    assert calls(lambda: decode_json(many)) == calls(lambda: decode_json(few))


@pytest.mark.parametrize("innermost", [b"[]", b"{}", b"[1]", b"1"])
def test_100_levels_are_the_most(innermost: bytes) -> None:
    more = 100 - innermost.count(b"[") - innermost.count(b"{")
    around = b"[" * 50 + b'{"a":' * (more - 50), b"}" * (more - 50) + b"]" * 50
    assert decode_json(innermost.join(around))
    with pytest.raises(JSONError, match="100"):
        decode_json(b"[" + innermost.join(around) + b"]")


def test_a_dense_text_is_not_read_token_by_token() -> None:
    dense = b"[" + b"{}," * 100_000 + b"{}]"
    assert calls(lambda: decode_json(dense)) < 100


PATTERNS = (
    "a", "a.b", "a.*", "*.b", "*", "**", "a.**", "a.b.**", "*.**", "a.*.c", "*.*.*", "a.*.**", "b", "a.b.c.*",
)  # fmt: skip
TYPES = ("a", "b", "a.", ".a", "a.b", "a..b", "a.b.c", "a.b.c.d", "a.b..", "..", "a.x.c", "x.b", "a.b.")


def test_an_index_finds_what_each_pattern_matches() -> None:
    index: PatternIndex[str] = PatternIndex()
    for pattern in PATTERNS:
        index.add(pattern, pattern)
    for type_ in TYPES:
        found = {pattern for pattern in PATTERNS if naive(pattern, type_)}
        assert set(index.find(type_)) == found, type_
        assert {pattern for pattern in PATTERNS if matcher((pattern,))(type_)} == found, type_
        assert matcher(PATTERNS[:5])(type_) is bool(found & set(PATTERNS[:5])), type_


def naive(pattern: str, type_: str) -> bool:
    front, segments = pattern.split("."), type_.split(".")
    if front[-1] == "**":
        front.pop()
        rest = ".".join(segments[len(front) :])
        if len(segments) <= len(front) or not rest:
            return False
        segments = segments[: len(front)]
    return len(front) == len(segments) and all(
        (star == "*" and segment) or star == segment for star, segment in zip(front, segments, strict=True)
    )


def registry(handlers: int, events: Callable[[int], str], filter_: Any = None) -> Registry:
    fields: dict[str, Any] = {"target": "a:b"} | ({} if filter_ is None else {"filter": filter_})
    found = Registry()
    found.load(
        [
            Handler(id=n, name=f"h{n}", overrides={**fields, "events": [events(n)]})
            for n in range(1, handlers + 1)
        ],
        [],
    )
    return found


def event(type_: str) -> NewEvent:
    return NewEvent(id="i", source="/", type=type_, time=0, accepted_at=0, correlationid="i", data=b'{"a":1}')


def steps(work: Iterator[None]) -> int:
    return sum(1 for _ in work)


@pytest.mark.parametrize("pattern", ["order.x{}", "order.x{}.*", "order.x{}.**", "*.x{}.created"])
def test_a_new_type_is_not_tried_against_each_handler(pattern: str) -> None:
    def match(handlers: int) -> int:
        rules = registry(handlers, pattern.format)
        assert rules.match(event("order.x1.created" if "*" in pattern else "order.x1")) == (1,)
        new = [event(f"user.t{n}.created") for n in range(100)]
        return calls(lambda: steps(rules.match_all(new)))

    assert match(1000) == match(10)


def test_filters_are_evaluated_in_steps_of_so_many_comparisons() -> None:
    filter_ = {"any": [{"exact": {"data.a": -n}} for n in range(1, 257)]}
    rules = registry(1, lambda _: "t", filter_)
    events = [event("t") for _ in range(1000)]
    assert steps(rules.match_all(events)) >= 256 * 1000 // (STEP + 2 * 256)
    assert not any(each.handlers for each in events)


def test_many_filters_for_one_event_are_steps_too() -> None:
    filter_ = {"all": [{"exact": {"data.a": 1}}] * 256}
    rules = registry(100, lambda _: "**", filter_)
    one = event("t")
    assert steps(rules.match_all([one])) >= 256 * 100 // (STEP + 2 * 256)
    assert one.handlers == tuple(range(1, 101)) == rules.match(one)


def test_types_that_were_matched_are_forgotten_by_their_size(monkeypatch: pytest.MonkeyPatch) -> None:
    rules = registry(1000, lambda _: "**")
    for n in range(3_000):
        rules.match(event(f"t{n}"))
    known = rules._matched
    assert sum(sys.getsizeof(each.ids) + sys.getsizeof(type_) for type_, each in known.items()) <= 4 << 20


def test_handlers_that_change_change_the_index() -> None:
    rules = registry(3, lambda n: f"a.{n}")
    assert rules.match(event("a.2")) == (2,)
    edition = rules.edition
    rules.take([Handler(id=4, name="h4", overrides={"target": "a:b", "events": ["a.*"]})])
    assert rules.match(event("a.2")) == (2, 4)
    rules.take([Handler(id=2, name="h2", overrides={"target": "a:b", "events": ["b"]})])
    assert rules.match(event("a.2")) == (4,)
    assert rules.match(event("b")) == (2,)
    rules.take([Handler(id=4, name="h4", deleted=True, overrides={"target": "a:b", "events": ["a.*"]})])
    assert rules.match(event("a.2")) == ()
    assert rules.edition is not edition


def test_no_long_text_of_a_client_is_kept_in_a_cache() -> None:
    before = loopback._known.cache_info().currsize
    for n in range(100):
        assert not loopback.is_loopback("x" * 60_000 + str(n))
        matcher([f"{'x' * 250}{n}"])
    assert loopback._known.cache_info().currsize == before
    assert loopback.is_loopback("localhost.")
