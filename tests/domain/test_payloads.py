"""`Event[Order]`: which annotations are read, which types payloads can have, what errors say."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NotRequired, Optional, TypedDict

import msgspec
import pydantic
import pytest
from busway import Event, InvalidData, handler
from busway.payloads import BadAnnotation, payload_of
from busway.testing import event, run, run_async


@dataclasses.dataclass
class Order:
    item: str
    quantity: int
    due: datetime | None = None


class Parcel(msgspec.Struct, rename="camel"):
    sent_to: str
    grams: Annotated[int, msgspec.Meta(gt=0)]
    orders: list[Order] = []


class Customer(pydantic.BaseModel):
    name: str = pydantic.Field(alias="fullName")
    age: int = pydantic.Field(ge=18)
    tags: set[str] = set()


class Note(TypedDict):
    text: str
    by: NotRequired[str]


class Card(msgspec.Struct, tag=True):
    number: str


class Cash(msgspec.Struct, tag=True):
    coins: int


@dataclasses.dataclass
class Mixed:
    customer: Customer
    order: Order
    file: Path


class Foreign:
    pass


class Special(Event[Order]):
    pass


if typing.TYPE_CHECKING:
    OnlyForCheckers = Event[Order]

OrderEvent = Event[Order]
ORDER = {"item": "book", "quantity": 2}
BOOKS = Order("book", 2)
DUE = datetime(2026, 1, 2, tzinfo=UTC)


def target(annotation: Any) -> Callable[..., Any]:
    @handler("t")
    def sees(event: Any, ctx: Any) -> None:
        ctx.log.info(repr(event.data))
        ctx.seen = event.data

    sees.__annotations__["event"] = annotation
    return sees


def seen(annotation: Any, data: Any) -> Any:
    """What a target with this annotation gets as `event.data`."""
    got: list[Any] = []

    def sees(event: Any) -> None:
        got.append(event.data)

    sees.__annotations__["event"] = annotation
    run(sees, event("t", data, subject="s"))
    return got[0]


@pytest.mark.parametrize(
    "annotation",
    [
        Event[Order],
        Event["Order"],
        OrderEvent,
        Optional[OrderEvent],  # noqa: UP045 - what people have
        OrderEvent | None,
        Annotated[Event[Order], "a note"],
        "Event[Order]",
        "Event['Order']",
        "OrderEvent",
        "OrderEvent | None",
        "Optional[Event[Order]]",
        "Annotated[Event[Order], 'a note']",
        "typing.Annotated[OrderEvent, 1] | None",
    ],
    ids=str,
)
def test_each_way_to_write_the_annotation_gives_the_type(annotation: Any) -> None:
    assert seen(annotation, ORDER) == BOOKS
    with pytest.raises(InvalidData, match="quantity"):
        seen(annotation, {"item": "book"})


@pytest.mark.parametrize(
    "annotation",
    [
        "Event",
        "busway.Event",
        " Event ",
        Event,
        "Any",
        Any,
        "Event[Any]",
        "Event[object]",
        dict,
        "Order",
        None,
    ],
    ids=str,
)
def test_without_a_type_the_payload_is_as_it_was_stored(annotation: Any) -> None:
    assert seen(annotation, ORDER) == ORDER
    assert seen(annotation, None) is None
    assert seen(annotation, b"raw") == b"raw"


@pytest.mark.parametrize(
    ("annotation", "data", "value"),
    [
        ("Event[Order]", {**ORDER, "due": "2026-01-02T00:00:00Z"}, Order("book", 2, DUE)),
        ("Event[Parcel]", {"sentTo": "Oslo", "grams": 5, "orders": [ORDER]}, Parcel("Oslo", 5, [BOOKS])),
        ("Event[Customer]", {"fullName": "Ann", "age": "20"}, Customer(fullName="Ann", age=20)),
        ("Event[Note]", {"text": "x", "other": 1}, {"text": "x"}),
        ("Event[list[Order]]", [ORDER], [BOOKS]),
        ("Event[dict[str, Order]]", {"a": ORDER}, {"a": BOOKS}),
        ("Event[list[Customer]]", [{"fullName": "Ann", "age": 18}], [Customer(fullName="Ann", age=18)]),
        ("Event[Card | Cash]", {"type": "Cash", "coins": 3}, Cash(3)),
        ("Event[Customer | Order]", ORDER, BOOKS),
        ("Event[Order | None]", None, None),
        ("Event[Order | bytes]", b"raw", b"raw"),
        ("Event[Order | bytes]", ORDER, BOOKS),
        ("Event[bytes]", b"raw", b"raw"),
        ("Event[dict]", ORDER, ORDER),
        ("Event[int]", 7, 7),
        ("Event[Card] | Event[Cash] | None", {"type": "Cash", "coins": 3}, Cash(3)),
        ("Event[Order] | Event", {"any": 1}, {"any": 1}),
        ("Event[None]", None, None),
        ("Annotated[Event[Annotated[dict[str, int], {}]], []]", {"a": 1}, {"a": 1}),
        ("Event[Path]", "/srv", Path("/srv")),
        (
            "Event[Mixed]",
            {"customer": {"fullName": "Ann", "age": 30}, "order": ORDER, "file": "a/b"},
            Mixed(Customer(fullName="Ann", age=30), BOOKS, Path("a/b")),
        ),
    ],
)
def test_each_kind_of_type_is_made_of_json(annotation: str, data: Any, value: Any) -> None:
    assert seen(annotation, data) == value


@pytest.mark.parametrize(
    ("annotation", "data", "said"),
    [
        (
            "Event[Order]",
            {"item": 1, "quantity": "x"},
            "item: Expected `str`, got `int`; quantity: Expected `int`",
        ),
        ("Event[Order]", {}, "item: missing required field; quantity: missing required field"),
        ("Event[Order]", [], "Expected `object`, got `array`"),
        (
            "Event[Parcel]",
            {"sentTo": "x", "grams": 0, "orders": [ORDER, {}]},
            "grams: Expected `int` >= 1; orders[1]: Object missing required field `item`",
        ),
        (
            "Event[Parcel]",
            {"sentTo": "x", "grams": 1, "orders": [{"item": 3}]},
            "orders[0].item: Expected `str`",
        ),
        (
            "Event[Customer]",
            {"age": 3, "tags": [1]},
            "fullName: Field required; age: Input should be greater than or equal to 18; tags[0]: Input",
        ),
        (
            "Event[list[Customer]]",
            [{"fullName": "A", "age": 20}, {"age": 1}],
            "[1].fullName: Field required; [1].age",
        ),
        ("Event[Note]", {"by": 1}, "text: missing required field; by: Expected `str`, got `int`"),
        ("Event[Card | Cash]", {"type": "Cheque"}, "type: Invalid value 'Cheque'"),
        (
            "Event[Mixed]",
            {"customer": {"age": 3}, "order": ORDER, "file": 3},
            "customer: fullName: Field required",
        ),
        ("Event[dict[str, int]]", {"a": "x"}, "[...]: Expected `int`, got `str`"),
    ],
)
def test_what_does_not_fit_is_refused_with_all_fields_named(annotation: str, data: Any, said: str) -> None:
    with pytest.raises(InvalidData) as refused:
        seen(annotation, data)
    begin, _, listed = str(refused.value).partition(": ")
    assert begin.startswith("the event's data does not fit ")
    assert listed.startswith(said)


def test_errors_name_at_most_twenty_fields() -> None:
    with pytest.raises(InvalidData) as refused:
        seen("Event[list[Customer]]", [{"age": 20}] * 25)
    assert str(refused.value).count("Field required") == 20
    assert str(refused.value).endswith("; and 5 more")


@pytest.mark.parametrize(
    ("annotation", "data", "said"),
    [
        ("Event[Order]", None, "the event has no data, which does not fit Order"),
        ("Event[Customer]", None, "the event has no data, which does not fit Customer"),
        ("Event[bytes]", None, "the event has no data, which does not fit bytes"),
        ("Event[Order]", b"raw", "the event's data is binary, which does not fit Order"),
        ("Event[Customer]", b"{}", "the event's data is binary, which does not fit Customer"),
        ("Event[bytes]", "x", "the event has JSON as its data, which does not fit bytes"),
    ],
)
def test_a_payload_of_another_form_is_named(annotation: str, data: Any, said: str) -> None:
    with pytest.raises(InvalidData) as refused:
        seen(annotation, data)
    assert str(refused.value).startswith(said)


@pytest.mark.parametrize(
    ("annotation", "said"),
    [
        (
            "Event[Missing]",
            "the annotation 'Event[Missing]' of its event cannot be resolved: NameError: name",
        ),
        ("OnlyForCheckers", "the annotation 'OnlyForCheckers' of its event cannot be resolved: NameError"),
        ("Event[", "the annotation 'Event[' of its event cannot be resolved: SyntaxError"),
        ("Event[Order, Note]", "the annotation 'Event[Order, Note]' of its event cannot be resolved: "),
        (
            "Special",
            "its event has a subclass of Event as annotation: use Event",
        ),
        ("Event[Foreign]", "a payload cannot be converted to Foreign: TypeError: use a pydantic model"),
        ("Event[Order | Note]", "a payload cannot be converted to "),
    ],
)
def test_an_annotation_that_cannot_be_used_says_why(annotation: str, said: str) -> None:
    with pytest.raises(BadAnnotation) as refused:
        payload_of(target(annotation))
    assert str(refused.value).startswith(said)


def test_annotations_of_helpers_that_exist_for_type_checkers_only_are_let_be() -> None:
    def helper(page: Missing) -> Any:  # type: ignore[name-defined] # noqa: F821
        return page.data

    assert payload_of(helper) is None
    assert run(helper, event("t", ORDER)) == ORDER


def test_other_parameters_are_not_resolved() -> None:
    def sees(event: Event[Order], ctx: OnlyForCheckers) -> OnlyForCheckers:  # type: ignore[valid-type]
        return event.data.quantity  # type: ignore[return-value]

    assert run(sees, event("t", ORDER)) == 2


def test_the_attributes_of_the_event_stay_and_the_event_itself_too() -> None:
    given = event("t", ORDER, subject="s", priority=7)

    async def sees(event: Event[Order]) -> list[Any]:
        return [event.data.item, event.subject, event.attributes["priority"], event.id]

    assert run(sees, given) == ["book", "s", 7, given.id]
    assert given.data == ORDER


def test_generators_and_wrapped_functions_get_the_type_too() -> None:
    import asyncio
    import functools

    from busway.testing import context

    async def streams(event: Event[Order]) -> Any:
        for n in range(event.data.quantity):
            yield n

    def wrapper(function: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(function)
        def wrapped(*given: Any) -> Any:
            return function(*given)

        return wrapped

    @wrapper
    def hidden(event: Event[Order]) -> int:
        return event.data.quantity

    ctx = context()
    asyncio.run(run_async(streams, event("t", ORDER), ctx))
    assert ctx.partials == [0, 1]
    assert run(hidden, event("t", ORDER)) == 2


def test_an_error_of_a_users_validator_that_is_no_validation_error_comes_out() -> None:
    class Broken(pydantic.BaseModel):
        item: str

        @pydantic.field_validator("item")
        @classmethod
        def _look_up(cls, value: str) -> str:
            if value == "busy":
                raise ConnectionError("no database")
            raise ValueError("no such item")

    def sees(event: Event[Broken]) -> None:
        pass

    sees.__annotations__["event"] = Event[Broken]
    with pytest.raises(ConnectionError):
        run(sees, event("t", {"item": "busy"}))
    with pytest.raises(InvalidData, match="item: Value error, no such item"):
        run(sees, event("t", {"item": "x"}))
