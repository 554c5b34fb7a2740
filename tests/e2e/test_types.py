"""`Event[Order]` in a gateway: payloads become objects, those that do not fit end their run at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from .service import Service

TYPED = """
from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec
import pydantic

from busway import Event, handler
from models import Line

if TYPE_CHECKING:
    from busway import Context
    from pages import Page

class Order(pydantic.BaseModel):
    item: str
    quantity: int = pydantic.Field(gt=0)

class Parcel(msgspec.Struct):
    to: str

@handler("order")
def order(event: Event[Order], ctx: Context):
    return {"total": event.data.quantity * 2, "type": type(event.data).__name__}

@handler("parcel")
async def parcel(event: Event[Parcel]):
    return type(event.data).__name__ + event.data.to

@handler("line")
def line(event: Event[Line]):
    yield event.data.sku
    return event.data

@handler("raw")
def raw(event: Event[bytes]):
    return event.data

@handler("busy", backoff={"initial": 0.01, "jitter": 0}, max_attempts=2)
def busy(event: Event[Busy]):
    return event.data.item

class Busy(pydantic.BaseModel):
    item: str

    @pydantic.model_validator(mode="after")
    def _look_up(self):
        raise ConnectionError("the database is away")

@handler("serialized")
def serialized(event):
    return {"orders": [Serialized(item="x")]}

class Serialized(pydantic.BaseModel):
    item: str

    @pydantic.field_serializer("item")
    def _write(self, value):
        raise LookupError("no such item")

@handler("lost")
def lost(event: Event[Odrer]):
    return 1

def render(page: Page):
    return 1

def helper(event: Event[set[Parcel]]):
    return 2
"""

MODELS = """
from dataclasses import dataclass

@dataclass
class Line:
    sku: str
    count: int = 1
"""


@pytest.fixture(scope="module", params=["process", "thread"])
def service(request: Any, tmp_path_factory: Any) -> Iterator[Service]:
    folder: Path = tmp_path_factory.mktemp(request.param)
    service = Service(folder, pool=request.param)
    service.write("typed.py", TYPED)
    service.write("models.py", MODELS)
    yield service.start()
    service.close()


def last(service: Service, type_: str, data: Any = None, **more: Any) -> dict[str, Any]:
    """The result that ends the only run of a new event."""
    receipt = service.ok(
        "POST", "/v1/events", {"type": type_, "data": data, **more} if not more else {"type": type_, **more}
    )
    run = service.run_of(receipt["seq"])
    ends = {"succeeded", "dead"}
    (item,) = [r for r in service.results() if r["run"] == run["id"] and r["kind"] in ends]
    return item


def test_a_payload_that_fits_is_an_object_of_the_type(service: Service) -> None:
    found = {
        "order": last(service, "order", {"item": "book", "quantity": 2}),
        "parcel": last(service, "parcel", {"to": "Oslo"}),
        "line": last(service, "line", {"sku": "a"}),
        "raw": last(service, "raw", data_base64="cmF3"),
    }
    assert {name: item.get("data") for name, item in found.items()} == {
        "order": {"total": 4, "type": "Order"},
        "parcel": "ParcelOslo",
        "line": {"sku": "a", "count": 1},
        "raw": None,
    }
    assert found["raw"]["data_base64"] == "cmF3"


@pytest.mark.parametrize(
    ("type_", "body", "said"),
    [
        (
            "order",
            {"data": {"quantity": 0}},
            "the event's data does not fit Order: item: Field required; quantity: Input",
        ),
        (
            "parcel",
            {"data": {"to": 1}},
            "the event's data does not fit Parcel: to: Expected `str`, got `int`",
        ),
        (
            "line",
            {"data": {"count": "x"}},
            "the event's data does not fit Line: sku: missing required field; count: ",
        ),
        ("order", {}, "the event has no data, which does not fit Order"),
        ("order", {"data_base64": "cmF3"}, "the event's data is binary, which does not fit Order"),
        ("raw", {"data": "text"}, "the event has JSON as its data, which does not fit bytes"),
    ],
)
def test_a_payload_that_does_not_fit_ends_the_run_at_once_with_its_fields(
    service: Service, type_: str, body: dict[str, Any], said: str
) -> None:
    run = service.run_of(service.ok("POST", "/v1/events", {"type": type_, **body})["seq"])
    assert (run["state"], run["attempt"]) == ("dead", 1)
    assert run["error"]["type"] == "InvalidData"
    assert run["error"]["message"].startswith(said)


def test_an_error_of_a_validator_that_is_not_about_the_payload_is_tried_again(service: Service) -> None:
    item = last(service, "busy", {"item": "x"})
    assert (item["kind"], item["attempt"], item["error"]["type"]) == ("dead", 2, "ConnectionError")


def test_an_error_in_a_serializer_ends_the_run_with_its_place_and_the_stack_of_the_serializer(
    service: Service,
) -> None:
    run = service.run_of(service.publish("serialized")["seq"])
    assert (run["state"], run["attempt"], run["error"]["type"]) == ("dead", 1, "NotEncodable")
    assert run["error"]["message"].startswith("the returned value: .orders[0] is a Serialized that cannot be")
    traceback = run["attempts"][0]["error"]["traceback"]
    assert "in _write" in traceback
    assert "LookupError: no such item" in traceback


def test_an_annotation_that_cannot_be_resolved_is_the_error_of_its_target_alone(service: Service) -> None:
    listed = service.ok("GET", "/v1/targets")["items"]
    errors = {each["file"]: each["error"] for each in listed if "error" in each}
    assert errors.keys() == {"typed.py"}
    assert len(errors["typed.py"].splitlines()) == 1
    assert "lost(): the annotation 'Event[Odrer]' of its event cannot be resolved" in errors["typed.py"]
    assert "NameError: name 'Odrer' is not defined" in errors["typed.py"]
    targets = {each["target"] for each in listed if "target" in each}
    assert {
        "typed:order",
        "typed:parcel",
        "typed:line",
        "typed:raw",
        "typed:busy",
        "typed:helper",
        "typed:render",
    } <= targets
    assert "typed:lost" not in targets
    assert service.publish("lost", {})["runs"] == 0
    service.logged("typed.py has targets that cannot be loaded, its handlers wait")
    assert "typed.py has targets that cannot be loaded" in service.ok("GET", "/readyz")["trouble"]
