"""Which values have a JSON form, which form it is, and what the errors say of the others."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import random
import sys
import uuid
from collections import OrderedDict, defaultdict
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PurePosixPath
from types import FrameType
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

import msgspec
import pydantic
import pytest
from busway.domain import jsonforms, jsonvalue
from busway.domain.jsonvalue import NotEncodable
from hypothesis import given
from hypothesis import strategies as st

ID = uuid.UUID("0199f3c2-6a00-7000-8000-000000000001")


class Colour(enum.Enum):
    RED = "red"
    PAIR = (1, Decimal("2.5"))


class Level(enum.IntEnum):
    HIGH = 3


class Word(str, enum.Enum):  # noqa: UP042 - what people have from before StrEnum
    YES = "yes"


class Point(NamedTuple):
    x: int
    y: float


@dataclasses.dataclass
class Line:
    item: str
    price: Any
    _note: str = "private"


@dataclasses.dataclass(frozen=True, slots=True)
class Sku:
    code: str


class Struct(msgspec.Struct, rename="camel", tag="struct"):
    first_name: str
    left_out: Any = msgspec.UNSET


class Short(msgspec.Struct, omit_defaults=True):
    count: int = 0
    names: list[str] = []
    word: str = "x"


class Row(msgspec.Struct, array_like=True, tag=True):
    a: Any
    b: Any


class Model(pydantic.BaseModel):
    full_name: str = pydantic.Field(alias="fullName")
    when: datetime | None = None
    anything: Any = None
    rate: float = 0.5

    @pydantic.computed_field
    @property
    def initial(self) -> str:
        return self.full_name[0]

    @pydantic.field_serializer("anything")
    def _serialize(self, value: Any) -> Any:
        if value == "raise":
            raise LookupError("no such thing")
        return value


class Root(pydantic.RootModel[list[int]]):
    pass


@pydantic.dataclasses.dataclass
class Checked:
    total: Decimal


FORMS: list[tuple[Any, Any]] = [
    (datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "2026-01-02T03:04:05Z"),
    (datetime(2026, 1, 2, 3, 4, 5, 678, tzinfo=ZoneInfo("Europe/Oslo")), "2026-01-02T03:04:05.000678+01:00"),
    (datetime(1890, 1, 1, tzinfo=timezone(timedelta(minutes=43, seconds=1))), "1889-12-31T23:16:59Z"),
    (datetime(2026, 1, 2, 3, 4, 5), "2026-01-02T03:04:05"),  # noqa: DTZ001 - it has no time zone
    (date(2026, 1, 2), "2026-01-02"),
    (time(3, 4), "03:04:00"),
    (time(3, 4, tzinfo=UTC), "03:04:00Z"),
    (timedelta(days=1, seconds=5, microseconds=3), "P1DT5.000003S"),
    (timedelta(hours=1, minutes=30), "PT1H30M"),
    (timedelta(minutes=-90), "-PT1H30M"),
    (timedelta(days=400, microseconds=500_000), "P400DT0.5S"),
    (timedelta(seconds=10), "PT10S"),
    (timedelta(0), "PT0S"),
    (ID, "0199f3c2-6a00-7000-8000-000000000001"),
    (Decimal("1.50"), "1.50"),
    (Decimal("-1E+5"), "-1E+5"),
    (PurePosixPath("/srv/a b"), "/srv/a b"),
    (Path("notes"), "notes"),
    (Colour.RED, "red"),
    (Colour.PAIR, [1, "2.5"]),
    (Level.HIGH, 3),
    (Word.YES, "yes"),
    ((1, (2,)), [1, [2]]),
    ({3, 1, 2}, [1, 2, 3]),
    (frozenset({"b", "a"}), ["a", "b"]),
    ({"b", 1, (2,)}, ["b", 1, [2]]),
    (Point(1, 2.5), [1, 2.5]),
    (OrderedDict(b=date(2026, 1, 2), a=1), {"b": "2026-01-02", "a": 1}),
    (defaultdict(list, a=[ID]), {"a": [str(ID)]}),
    (Line("book", Decimal("12.50")), {"item": "book", "price": "12.50", "_note": "private"}),
    (Sku("a"), {"code": "a"}),
    (Struct("Ann"), {"type": "struct", "firstName": "Ann"}),
    (Struct("Ann", Level.HIGH), {"type": "struct", "firstName": "Ann", "leftOut": 3}),
    (Short(), {}),
    (Short(2, ["a"]), {"count": 2, "names": ["a"]}),
    (Row(1, {2}), ["Row", 1, [2]]),
    (
        Model(fullName="Ann", when=datetime(2026, 1, 2, tzinfo=UTC)),
        {"fullName": "Ann", "when": "2026-01-02T00:00:00Z", "anything": None, "rate": 0.5, "initial": "A"},
    ),
    (Root([1, 2]), [1, 2]),
    (Checked(Decimal("1.1")), {"total": "1.1"}),
    (
        {7: 1, ID: 2, date(2026, 1, 2): 3, Colour.RED: 4, Level.HIGH: 5, Decimal("1.5"): 6},
        {"7": 1, str(ID): 2, "2026-01-02": 3, "red": 4, "3": 5, "1.5": 6},
    ),
]


@pytest.mark.parametrize(("value", "form"), FORMS, ids=[str(form) for _, form in FORMS])
def test_each_type_has_one_form_wherever_it_stands(value: Any, form: Any) -> None:
    for nested, expected in [
        (value, form),
        ({"a": [value]}, {"a": [form]}),
        ((Line("x", value),), [{"item": "x", "price": form, "_note": "private"}]),
        (Row(value, [value]), ["Row", form, [form]]),
        ({"m": Struct("Ann", value)}, {"m": {"type": "struct", "firstName": "Ann", "leftOut": form}}),
    ]:
        data, binary = jsonvalue.encode(nested, "v")
        assert not binary
        assert json.loads(data) == expected


def test_what_msgspec_and_pydantic_have_forms_for_they_can_read() -> None:
    for value, form in FORMS:
        if isinstance(value, Sku | Short | Checked):
            assert msgspec.convert(form, type(value)) == value
        if isinstance(value, timedelta | Decimal | uuid.UUID | datetime | date | time):
            assert pydantic.TypeAdapter(type(value)).validate_python(form) == value
    model = Model(fullName="Ann", when=datetime(2026, 1, 2, tzinfo=UTC), anything=timedelta(hours=-1))
    form = json.loads(jsonvalue.encode(model, "v")[0])
    assert (form["anything"], Model.model_validate(form).when) == ("-PT1H", model.when)


DEEP: list[Any] = []
DEEP.append({"again": DEEP})
TREE = Line("tree", [])
TREE.price.append(TREE)

REFUSED: list[tuple[Any, str]] = [
    ({"items": [1, 2, 3, {"price": 1j}]}, ": .items[3].price is a complex, which has no JSON form"),
    (object(), " is an object, which has no JSON form"),
    (Line, " is a type, which has no JSON form"),
    (math.nan, " is a float with the value nan, which has no JSON form"),
    ([Line("a", -math.inf)], ": [0].price is a float with the value -inf, which"),
    ({"t": {Decimal("NaN")}}, ": .t[] is a Decimal with the value NaN, which"),
    (Row(1, Decimal("Infinity")), ": [2] is a Decimal with the value Infinity, which"),
    (Struct(range(3)), ": .firstName is a range, which"),
    ({"m": Model(fullName="Ann", rate=math.nan)}, ": .m.rate is a float with the value nan, which"),
    (Model(fullName="Ann", anything=[math.inf]), ": .anything[0] is a float with the value inf, which"),
    (
        [Model(fullName="Ann", anything=object())],
        ": [0] is a Model that cannot be serialized: Pydantic",
    ),
    ([b"x"], ": [0] is a bytes, which has no JSON form: bytes can only be the whole value"),
    ({1.5: 1}, " has a key that is a float, which has no JSON form as a key: use a str"),
    ({"a": {None: 1}}, ": .a has a key that is a NoneType, which"),
    ({True: 1}, " has a key that is a bool, which"),
    ({(1, 2): 1}, " has a key that is a tuple, which"),
    ({1: 1, "1": 2}, " has two keys that are '1' in JSON"),
    ({"two words": 1j}, ": ['two words'] is a complex"),
    ({"k" * 100: [1j]}, f": ['{'k' * 60}…'][0] is a complex"),
    ({"a": 10**400}, ": .a is an int that does not fit in a double: use a str"),
    (["\ud800"], ": [0] is a str with a lone surrogate"),
    ({"\ud800": 1}, ": ['\\ud800'] is a str with a lone surrogate"),
    (Path("\udcff"), " is a str with a lone surrogate"),
    (msgspec.UNSET, " is a UnsetType, which"),
    (DEEP, ": [0].again[0].again"),
    (TREE, ": .price[0].price[0].price"),
]


@pytest.mark.parametrize(("value", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_what_has_no_form_is_named_by_place_and_type(value: Any, said: str) -> None:
    with pytest.raises(NotEncodable) as refused:
        jsonvalue.encode(value, "the returned value")
    assert str(refused.value).startswith(f"the returned value{said}")
    assert isinstance(refused.value, TypeError)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize("value", [DEEP, TREE])
def test_what_contains_itself_is_refused(value: Any) -> None:
    with pytest.raises(NotEncodable, match="nested deeper than 100 levels: does the value contain itself"):
        jsonvalue.encode(value, "v")


def test_an_error_in_a_serializer_of_the_user_is_named_with_its_place_and_kept() -> None:
    with pytest.raises(NotEncodable, match=r"the returned value: \.a is a Model .* no such thing") as refused:
        jsonvalue.encode({"a": Model(fullName="Ann", anything="raise")}, "the returned value")
    assert type(refused.value.__cause__).__name__ == "PydanticSerializationError"

    class Broken(Line):
        @property
        def price(self) -> Any:
            raise LookupError("no price today")

        @price.setter
        def price(self, _value: Any) -> None: ...

    said = r"v: \[0\] is a Broken whose field price cannot be read: LookupError: no price today"
    with pytest.raises(NotEncodable, match=said) as refused:
        jsonvalue.encode([Broken("a", 1)], "v")
    assert isinstance(refused.value.__cause__, LookupError)


class Name(str):
    __slots__ = ()


class Real(float):
    pass


PLAIN = [
    None,
    {"a": [1, 2.5, "x", True, None, {"b": []}], "c": {}},
    [{"n": n, "price": n / 7, "tags": ["a", "b"]} for n in range(50)],
    {str(n): n for n in range(50)},
    (1, (2, "x")),
    OrderedDict(a=defaultdict(int, b=1)),
    [Name("n"), Real(1.5), {Name("k"): True}],
]


@pytest.mark.parametrize("value", PLAIN, ids=range(len(PLAIN)))
def test_plain_values_are_encoded_without_a_conversion(value: Any) -> None:
    """Counts calls: a value of JSON's own types costs nothing of what the others need."""
    called: list[str] = []

    def count(frame: FrameType, event: str, _given: Any) -> None:
        if event == "call" and frame.f_code.co_filename == jsonforms.__file__:
            called.append(frame.f_code.co_name)

    sys.setprofile(count)
    try:
        jsonvalue.encode_result(value, "v")
        plain = len(called)
        jsonvalue.encode_result({"a": [value, {1}]}, "v")
    finally:
        sys.setprofile(None)
    assert plain == 0
    assert "plain" in called


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_every_json_value_is_encoded_as_it_is(value):
    data, binary = jsonvalue.encode(value, "v")
    assert not binary
    assert json.loads(data) == value


@given(
    json_values, st.sampled_from([math.nan, math.inf, {1j}, object(), b"x", 1j, 10**400]), st.integers(0, 3)
)
def test_no_wrong_value_hides_in_a_right_one(value, wrong, depth):
    for _ in range(depth):
        wrong = random.choice([[value, wrong], {"k": wrong, "v": value}, (wrong,)])
    if depth == 0 and isinstance(wrong, bytes):
        return
    with pytest.raises((TypeError, ValueError), match="the value"):
        jsonvalue.encode(wrong, "the value")


def test_a_hundred_levels_are_taken_and_one_more_is_not():
    value = None
    for _ in range(100):
        value = [value]
    jsonvalue.encode(value, "v")
    with pytest.raises(ValueError, match="deeper"):
        jsonvalue.encode([value], "v")


def test_subclasses_of_json_types_are_what_they_derive_from() -> None:
    value = [Name("n"), Real(1.5), (1, 2), {Name("k"): True}]
    for each in (value, [*value, ID]):
        assert jsonvalue.encode(each, "v")[0].startswith(b'["n",1.5,[1,2],{"k":true}')
