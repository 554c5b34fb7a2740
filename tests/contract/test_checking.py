"""What does not fit a type of the contract is reported in full: every field, with its place."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from busway.contract.checking import MOST, Mismatch, read
from busway.contract.frames import SubscribeFrame
from busway.contract.handlers import HandlerChange, HandlerIn, TrialIn
from busway.contract.keys import KeyIn
from busway.contract.runs import RetryIn

HANDLER = {"name": "a", "target": "orders:price", "events": ["order.*"]}


def bad(value: Any, shape: type[msgspec.Struct]) -> dict[str, str]:
    """The messages by place; a place is reported once."""
    with pytest.raises(Mismatch) as refused:
        read(value, shape)
    found = [(".".join(map(str, field.loc)), field.msg) for field in refused.value.fields]
    assert len(dict(found)) == len(found)
    return dict(found)


def test_every_field_is_reported_at_once() -> None:
    found = bad({"name": "A", "events": "x", "timeout": 0, "ordered": 1, "colour": 1}, HandlerIn)
    places = {"body.name", "body.target", "body.events", "body.timeout", "body.ordered", "body.colour"}
    assert found.keys() == places
    assert "missing" in found["body.target"]
    assert "86400" in found["body.timeout"]
    assert "unknown field 'colour'" in found["body.colour"]


@pytest.mark.parametrize(
    ("value", "shape", "place", "word"),
    [
        ([], HandlerIn, "body", "expected an object, got a list"),
        (None, RetryIn, "body", "expected an object, got null"),
        ({"state": "running"}, RetryIn, "body.state", "'dead', 'cancelled'"),
        ({"handler": 1}, RetryIn, "body.handler", "expected a string, got an integer"),
        ({"name": "k", "scopes": ["admin", "all"]}, KeyIn, "body.scopes.1", "'publish'"),
        ({"name": "k", "scopes": []}, KeyIn, "body.scopes", "length >= 1"),
        ({"name": "k\n", "scopes": ["admin"]}, KeyIn, "body.name", "printable"),
        ({"name": "k", "scopes": ["admin"], "types": ["a.*b"]}, KeyIn, "body.types", "the last segment"),
        ({"name": "k", "scopes": ["admin"], "expires_at": "soon"}, KeyIn, "body.expires_at", "RFC 3339"),
        (
            {**HANDLER, "filter": {"all": [{"near": {}}]}},
            HandlerIn,
            "body.filter",
            "all[0]: unknown dialect",
        ),
        ({**HANDLER, "backoff": {"initial": "1"}}, HandlerIn, "body.backoff", "jitter at most 1"),
        ({"max_attempts": 1.0}, HandlerChange, "body.max_attempts", "integer from 1"),
        ({"event": {"type": 1}}, TrialIn, "body.event.type", "expected a string, got an integer"),
        ({"event": {}}, TrialIn, "body.event.type", "missing"),
        ({"op": "subscribe", "id": "s", "shadow": 1}, SubscribeFrame, "body.shadow", "boolean"),
        ({"op": "subscribe", "id": "s", "types": ["a"] * 101}, SubscribeFrame, "body.types", "100"),
    ],
)
def test_a_field_is_reported_with_its_place_and_what_to_write(
    value: Any, shape: type[msgspec.Struct], place: str, word: str
) -> None:
    found = bad(value, shape)
    assert list(found) == [place]
    assert word in found[place]


def test_what_fits_is_converted_and_null_is_told_from_absent() -> None:
    change = read({"timeout": 30, "filter": None, "backoff": {"initial": 2}}, HandlerChange)
    expected = {
        "timeout": 30,
        "filter": None,
        "backoff": {"initial": 2, "factor": 2, "max": 3600, "jitter": 0.1},
    }
    assert msgspec.to_builtins(change) == expected


def test_numbers_of_a_filter_keep_their_value() -> None:
    exact = {"data.n": 2**63, "data.m": 2.5, "data.o": True, "data.p": None, "data.q": "2"}
    new = read({**HANDLER, "filter": {"not": {"exact": exact}}}, HandlerIn)
    assert msgspec.to_builtins(new)["filter"] == {"not": {"exact": exact}}
    assert type(msgspec.to_builtins(new)["filter"]["not"]["exact"]["data.n"]) is int


def test_no_more_than_a_hundred_fields_are_reported() -> None:
    assert len(bad({f"x{n}": 1 for n in range(1000)}, RetryIn)) == MOST
