"""Filters on events."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.domain.filter import MAX_COMPARISONS

EXAMPLE: dict[str, Any] = {
    "all": [{"exact": {"data.customer.country": "NO"}}, {"not": {"prefix": {"subject": "test-"}}}]
}

_Text = Annotated[str, Meta(min_length=1)]
_Texts = Annotated[dict[str, _Text], Meta(min_length=1)]


class Filter(msgspec.Struct, forbid_unknown_fields=True):
    """A filter in one dialect of the CloudEvents Subscriptions API. All comparisons in it must match.

    Names are attributes, or paths into the payload: keys and list positions separated by dots, such as
    `data.lines.0.sku`. Attributes are compared as text. In the payload, `exact` compares strings, numbers,
    booleans and null, each only with its own type. A missing value does not match. The limits are 16 levels,
    256 comparisons and 16,384 characters.
    """

    SCHEMA: ClassVar[dict[str, Any]] = {"minProperties": 1, "maxProperties": 1, "examples": [EXAMPLE]}

    exact: (
        Annotated[
            dict[str, str | int | float | bool | None],
            Meta(min_length=1, description="The value is equal.", examples=[{"data.customer.country": "NO"}]),
        ]
        | UnsetType
    ) = UNSET
    prefix: (
        Annotated[_Texts, Meta(description="The value begins with this text.", examples=[{"subject": "eu-"}])]
        | UnsetType
    ) = UNSET
    suffix: (
        Annotated[_Texts, Meta(description="The value ends with this text.", examples=[{"source": "/shop"}])]
        | UnsetType
    ) = UNSET
    all: (
        Annotated[
            list[Filter],
            Meta(min_length=1, max_length=MAX_COMPARISONS, description="All of these filters match."),
        ]
        | UnsetType
    ) = UNSET
    any: (
        Annotated[
            list[Filter],
            Meta(
                min_length=1, max_length=MAX_COMPARISONS, description="At least one of these filters matches."
            ),
        ]
        | UnsetType
    ) = UNSET
    not_: Annotated[Filter, Meta(description="This filter does not match.")] | UnsetType = msgspec.field(
        default=UNSET, name="not"
    )
