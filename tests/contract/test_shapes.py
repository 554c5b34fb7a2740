"""The types of the contract say what the gateway does, where it does not use them itself for speed."""

from __future__ import annotations

import inspect
import json
from typing import Any

import jsonschema
import msgspec
import pytest
from busway.contract import schemas
from busway.contract.events import EventIn, Receipt
from busway.contract.frames import CLIENT_FRAMES, SERVER_FRAMES
from busway.contract.results import Item
from busway.domain.event_fields import accept, faults
from busway.domain.handler import RULES, FieldError, Spec
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = 1_700_000_000_000_000


def validator(name: str) -> Any:
    schema = {**schemas.ref(schemas.named()[name]), "components": {"schemas": schemas.components([name])}}
    # The `$` of ECMAScript's expressions, of which JSON Schema speaks, is Python's `\Z`.
    text = json.dumps(schema).replace('$", "', '\\\\Z", "').replace('$"}', '\\\\Z"}')
    return jsonschema.Draft202012Validator(json.loads(text))


EVENT = validator("EventIn")

texts = st.text(max_size=4) | st.sampled_from(
    ["order.created", "a.*", "a b", "x" * 255, "x" * 256, "x" * 1025]
)
times = st.sampled_from(["2026-01-31T12:00:00Z", "2026-01-31T12:00:00+02:00"])
scalars = (
    st.none()
    | st.booleans()
    | st.integers(-5, 15)
    | st.just(1 << 64)
    | st.sampled_from([0.5, -1.25])
    | texts
    | times
)
values = scalars | st.lists(scalars, max_size=2) | st.dictionaries(texts, scalars, max_size=2)
names = st.sampled_from([*EventIn.__struct_fields__, "colour", "seq", "runs", "Colour", "a_b", "x" * 21, ""])


@given(st.dictionaries(names, values, max_size=4), st.none() | texts)
@settings(derandomize=True, deadline=None, max_examples=3000)
@pytest.mark.long
def test_an_event_is_taken_if_its_schema_admits_it_and_not_otherwise(
    fields: dict[str, Any], type_: Any
) -> None:
    if type_ is not None:
        fields["type"] = type_
    try:
        accept(dict(fields), None, NOW)
        taken = True
    except FieldError:
        taken = False
    wrong = faulty(fields)
    assert taken is not bool(wrong)
    admitted = EVENT.is_valid(fields)
    if taken:
        assert admitted, fields
        msgspec.convert(fields, EventIn)
    # Times, base64 and 64 bits are no matter of a schema.
    elif not set(wrong) <= {"time", "deliverat", "expirytime", "data_base64"} and not huge(fields):
        assert not admitted, (fields, wrong)


def faulty(fields: dict[str, Any]) -> list[str]:
    return [fault.field for fault in faults(fields, NOW)]


def huge(fields: dict[str, Any]) -> bool:
    return any(value == 1 << 64 for value in fields.values())


def test_every_member_that_is_refused_is_reported() -> None:
    fields = {
        "type": 1,
        "time": "soon",
        "colour": {},
        "priority": 10,
        "data": 1,
        "data_base64": "",
        "id": "i",
    }
    assert sorted(faulty(fields)) == ["colour", "data_base64", "priority", "time", "type"]
    assert faulty({}) == ["type"]
    assert faulty({"type": "t", "data": None}) == []


def test_the_handler_fields_of_code_and_http_are_the_same() -> None:
    named = schemas.named()
    for name in ("HandlerIn", "HandlerChange"):
        assert set(named[name].__struct_fields__) == RULES.keys()
    assert named["Settings"].__struct_fields__ == Spec.__struct_fields__


def test_names_of_types_are_unique() -> None:
    """They name the schemas of the documents."""
    shapes = [
        shape
        for module in schemas.MODULES
        for shape in vars(module).values()
        if inspect.isclass(shape)
        and issubclass(shape, msgspec.Struct)
        and shape.__module__ == module.__name__
    ]
    assert len({shape.__name__ for shape in shapes}) == len(shapes)


def test_every_schema_is_sound_and_admits_its_examples() -> None:
    found = schemas.components(schemas.named())
    for name, schema in found.items():
        jsonschema.Draft202012Validator.check_schema(schema)
        for example in schema.get("examples", ()):
            validator(name).validate(example)
        for field, described in schema.get("properties", {}).items():
            for example in described.get("examples", ()):
                whole = {**described, "components": {"schemas": found}}
                jsonschema.Draft202012Validator(whole).validate(example), (name, field)
            if "default" in described:
                jsonschema.Draft202012Validator({**described, "components": {"schemas": found}}).validate(
                    described["default"]
                )


def test_what_a_newer_gateway_adds_does_not_disturb_a_client() -> None:
    for shape in SERVER_FRAMES:
        frame = {"op": shape.__struct_config__.tag, **shape.EXAMPLE, "new": 1}
        msgspec.json.decode(json.dumps(frame), type=shape)
    example = {**SERVER_FRAMES[2].EXAMPLE["items"][0], "kind": "new", "new": {}}
    assert msgspec.convert(example, Item).kind == "new"
    assert not Receipt.__struct_config__.forbid_unknown_fields


def test_what_a_client_sends_has_no_unknown_field() -> None:
    bodies = ("HandlerIn", "HandlerChange", "KeyIn", "RetryIn", "TrialIn", "Filter", "Backoff")
    for shape in (*CLIENT_FRAMES, *(schemas.named()[name] for name in bodies)):
        assert shape.__struct_config__.forbid_unknown_fields, shape


@pytest.mark.parametrize("value", [None, 1, "eA==", b"x"])
def test_a_binary_value_of_an_item_is_bytes(value: Any) -> None:
    example = {**SERVER_FRAMES[2].EXAMPLE["items"][0]}
    del example["data"]
    if isinstance(value, bytes):
        item = msgspec.convert({**example, "data_base64": "eA=="}, Item)
    else:
        item = msgspec.convert({**example, "data": value}, Item)
    assert item.data == value
