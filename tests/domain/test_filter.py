"""Filters: which events they admit, and the messages for invalid filters."""

from __future__ import annotations

import json
from typing import Any

import pytest
from busway.domain import filter as filters
from busway.domain.event import NewEvent
from busway.domain.filter import FilterError, View, compile_filter
from busway.domain.times import from_text
from hypothesis import given, settings
from hypothesis import strategies as st

PAYLOAD = {
    "customer": {"country": "NO", "name": "Ås & Co", "": "nameless"},
    "lines": [{"sku": "b-1", "n": 2}, {"sku": "b-2", "n": 2.5}],
    "paid": True,
    "n": 1,
    "note": None,
    "7": "a key of digits",
    "big": 2**64 - 1,
    "bigger": 2**70,
    "text": "",
}


def event(data: Any = PAYLOAD, **fields: Any) -> NewEvent:
    known = {
        "id": "e-1",
        "source": "/shop/oslo",
        "type": "order.created",
        "subject": "order-7",
        "time": from_text("2026-01-31T12:00:00.5Z"),
        "accepted_at": 0,
        "correlationid": "c-1",
        "datacontenttype": "application/json",
        "attributes": {"tenant": "blue", "priority": 9, "urgent": True, "empty": ""},
        "data": None if data is None else json.dumps(data).encode(),
    }
    return NewEvent(**{**known, **fields})


def admits(filter_: Any, of: NewEvent | None = None) -> bool:
    return compile_filter(filter_)(View(of or event()))


YES: list[dict[str, Any]] = [
    {"exact": {"id": "e-1"}},
    {"exact": {"type": "order.created", "source": "/shop/oslo"}},
    {"exact": {"subject": "order-7"}},
    {"exact": {"specversion": "1.0"}},
    {"exact": {"datacontenttype": "application/json"}},
    {"exact": {"correlationid": "c-1"}},
    {"exact": {"tenant": "blue"}},
    {"exact": {"priority": "9"}},
    {"exact": {"urgent": "true"}},
    {"exact": {"time": "2026-01-31T13:00:00.500000+01:00"}},
    {"prefix": {"time": "2026-01-31T"}},
    {"prefix": {"source": "/shop/", "type": "order."}},
    {"suffix": {"source": "/oslo"}},
    {"exact": {"data.customer.country": "NO"}},
    {"exact": {"data.lines.1.sku": "b-2"}},
    {"exact": {"data.lines.0.n": 2.0}},
    {"exact": {"data.lines.1.n": 2.5}},
    {"exact": {"data.n": 1.0}},
    {"exact": {"data.paid": True}},
    {"exact": {"data.note": None}},
    {"exact": {"data.7": "a key of digits"}},
    {"exact": {"data.big": 2**64 - 1}},
    {"exact": {"data.bigger": float(2**70)}},
    {"exact": {"data.text": ""}},
    {"prefix": {"data.customer.name": "Å"}},
    {"suffix": {"data.lines.0.sku": "-1"}},
    {"not": {"exact": {"data.missing": "x"}}},
    {"not": {"exact": {"data.missing": None}}},
    {"not": {"exact": {"absent": "x"}}},
    {"any": [{"exact": {"id": "no"}}, {"exact": {"data.n": 1}}]},
    {"all": [{"prefix": {"id": "e"}}, {"not": {"suffix": {"id": "2"}}}]},
]
NO: list[dict[str, Any]] = [
    {"exact": {"type": "Order.created"}},
    {"exact": {"type": "order.created", "source": "/"}},
    {"exact": {"absent": "x"}},
    {"prefix": {"absent": "x"}},
    {"exact": {"data.n": "1"}},
    {"exact": {"data.n": True}},
    {"exact": {"data.paid": 1}},
    {"exact": {"data.paid": "true"}},
    {"exact": {"data.note": "null"}},
    {"exact": {"data.missing": None}},
    {"exact": {"data.customer": "NO"}},
    {"exact": {"data.lines": 2}},
    {"exact": {"data.lines.2.sku": "b-2"}},
    {"exact": {"data.lines.01.sku": "b-2"}},
    {"exact": {"data.lines.-1.sku": "b-2"}},
    {"exact": {"data.customer.country.0": "N"}},
    {"exact": {"data": "NO"}},
    {"exact": {"data.big": 2.5}},
    {"prefix": {"data.n": "1"}},
    {"suffix": {"data.note": "l"}},
    {"not": {"exact": {"id": "e-1"}}},
    {"any": [{"exact": {"id": "no"}}, {"exact": {"data.n": 2}}]},
    {"all": [{"prefix": {"id": "e"}}, {"suffix": {"id": "2"}}]},
]


@pytest.mark.parametrize("filter_", YES, ids=str)
def test_an_event_is_admitted(filter_: dict[str, Any]) -> None:
    assert admits(filter_)


@pytest.mark.parametrize("filter_", NO, ids=str)
def test_an_event_is_not_admitted(filter_: dict[str, Any]) -> None:
    assert not admits(filter_)


@pytest.mark.parametrize(
    ("data", "expected", "admitted"),
    [("NO", "NO", True), (5, 5, True), ([5], 5, False), (False, False, True), (0, False, False)],
)
def test_the_whole_payload_can_be_compared(data: Any, expected: Any, admitted: bool) -> None:
    assert admits({"exact": {"data": expected}}, event(data)) is admitted


@pytest.mark.parametrize("of", [event(None), event(data=None, binary=True), event("NO", binary=True)])
def test_without_a_json_payload_every_value_is_missing(of: NewEvent) -> None:
    for filter_ in ({"exact": {"data": "NO"}}, {"exact": {"data": None}}, {"prefix": {"data.a": "N"}}):
        assert not admits(filter_, of)
        assert admits({"not": filter_}, of)


def test_the_payload_is_decoded_once_and_only_on_use(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[bytes] = []
    monkeypatch.setattr(filters, "_decode", lambda data: decoded.append(data) or json.loads(data))
    view = View(event())
    assert compile_filter({"exact": {"type": "order.created"}})(view)
    assert not compile_filter({"all": [{"exact": {"type": "x"}}, {"exact": {"data.n": 1}}]})(view)
    assert decoded == []
    for _ in range(3):
        assert compile_filter({"all": [{"exact": {"data.n": 1}}, {"exact": {"data.paid": True}}]})(view)
    assert len(decoded) == 1


def nested(levels: int) -> dict[str, Any]:
    value: dict[str, Any] = {"exact": {"id": "e-1"}}
    for _ in range(levels - 1):
        value = {"all": [value]}
    return value


BAD: list[tuple[Any, str]] = [
    ({}, "empty"),
    ([], "object"),
    ("x", "object"),
    (5, "object"),
    ({"exact": {}}, "empty"),
    ({"exact": []}, "object"),
    ({"all": []}, "empty"),
    ({"any": []}, "empty"),
    ({"any": {}}, "list"),
    ({"all": "ab"}, "list"),
    ({"not": []}, "object"),
    ({"not": {}}, "not: a filter must not be empty"),
    ({"not": None}, "object"),
    ({"all": [{"exact": {"id": "x"}}, {"any": [{"nor": 1}]}]}, "all[1].any[0]: unknown dialect 'nor'"),
    ({"sql": "a = b"}, "exact, prefix, suffix, all, any, not"),
    ({5: 1}, "dialect 5"),
    ({"exact": {"id": "x"}, "prefix": {"id": "y"}}, '{"all": ['),
    ({"exact": {"subject": 5}}, "subject must be compared with a string"),
    ({"exact": {"urgent": True}}, "urgent must be compared with a string"),
    ({"exact": {"subject": None}}, "string"),
    ({"exact": {"subject": ""}}, "not empty"),
    ({"exact": {"": "x"}}, "neither an attribute"),
    ({"exact": {"Subject": "x"}}, "neither an attribute"),
    ({"exact": {"seq": "1"}}, "neither an attribute"),
    ({"exact": {"customer.country": "x"}}, "data.customer.country"),
    ({"exact": {5: "x"}}, "names must be strings"),
    ({"exact": {"time": "yesterday"}}, "prefix"),
    ({"exact": {"data.": 1}}, "empty segment"),
    ({"exact": {"data..a": 1}}, "empty segment"),
    ({"exact": {"data.a": [1]}}, "use a path"),
    ({"exact": {"data.a": {}}}, "use a path"),
    ({"exact": {"data.a": float("nan")}}, "number"),
    ({"exact": {"data.a": 2**64}}, "64 bits"),
    ({"exact": {"data.a": -(10**400)}}, "64 bits"),
    ({"exact": {"data.a": "\ud800"}}, "Unicode"),
    ({"exact": {"subject": "\ud800"}}, "Unicode"),
    ({"prefix": {"data.a": 1}}, "string"),
    ({"prefix": {"data.a": ""}}, "not empty"),
    (nested(17), "16 levels"),
    (nested(5000), "16 levels"),
    ({"not": nested(16)}, "16 levels"),
    ({"any": [{"exact": {"id": "x"}}] * 10_000}, "256"),
    ({"exact": {f"data.k{n}": 1 for n in range(10_000)}}, "256"),
    ({"all": [{"any": [{"exact": {"id": "x"}}] * 200}] * 200}, "256"),
    ({"exact": {"subject": "x" * 1_000_000}}, "16384 characters"),
    ({"exact": {"data." + "x" * 1_000_000: 1}}, "16384 characters"),
    ({"exact": {"data." + "x." * 1_000_000: 1}}, "16384 characters"),
    ({"x" * 1_000_000: 1}, "unknown dialect"),
]


@pytest.mark.parametrize(("value", "word"), BAD, ids=[word for _, word in BAD])
def test_an_invalid_filter_raises_with_a_short_reason(value: Any, word: str) -> None:
    with pytest.raises(FilterError) as refused:
        compile_filter(value)
    assert word in str(refused.value)
    assert len(str(refused.value)) < 500


def test_a_filter_that_contains_itself_is_refused() -> None:
    value: dict[str, Any] = {"all": []}
    value["all"] = [value, value]
    with pytest.raises(FilterError):
        compile_filter(value)


def test_a_filter_may_have_16_levels_and_256_comparisons() -> None:
    assert admits(nested(16))
    assert not admits({"any": [{"exact": {"id": str(n)}} for n in range(256)]})


scalars = st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.sampled_from(["", "a", "ab"])
names = st.sampled_from(["a", "b", "0", "1"])
payloads = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(names, inner, max_size=3),
    max_leaves=12,
)
leaves = st.builds(
    lambda path, value: {"exact": {".".join(["data", *path]): value}}, st.lists(names, max_size=3), scalars
) | st.builds(
    lambda dialect, path, value: {dialect: {".".join(["data", *path]): value}},
    st.sampled_from(["prefix", "suffix"]),
    st.lists(names, max_size=3),
    st.sampled_from(["a", "b"]),
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.builds(lambda f: {"not": f}, inner)
        | st.builds(
            lambda d, f: {d: f}, st.sampled_from(["all", "any"]), st.lists(inner, min_size=1, max_size=3)
        )
    ),
    max_leaves=6,
)


def said(filter_: dict[str, Any], payload: Any) -> bool:
    """A naive interpreter of filters."""
    ((dialect, operand),) = filter_.items()
    if dialect == "not":
        return not said(operand, payload)
    if dialect in ("all", "any"):
        return {"all": all, "any": any}[dialect](said(part, payload) for part in operand)
    ((path, expected),) = operand.items()
    value = payload
    for step in path.split(".")[1:]:
        if isinstance(value, dict) and step in value:
            value = value[step]
        elif isinstance(value, list) and step.isdigit() and int(step) < len(value):
            value = value[int(step)]
        else:
            return False
    if dialect == "exact":
        kinds = [bool if isinstance(v, bool) else float if isinstance(v, int | float) else type(v)
                 for v in (value, expected)]  # fmt: skip
        return kinds[0] is kinds[1] and kinds[0] not in (dict, list) and value == expected
    return isinstance(value, str) and (value.startswith if dialect == "prefix" else value.endswith)(expected)


@given(trees, payloads)
@settings(derandomize=True, deadline=None, max_examples=500)
def test_compiled_filters_agree_with_a_naive_interpreter(filter_: dict[str, Any], payload: Any) -> None:
    of = event()
    of.data = json.dumps(payload).encode()
    assert admits(filter_, of) is said(filter_, payload)
