"""What the OpenAPI document says of filters; `domain.filter` checks them."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

EXAMPLE: Any = {
    "all": [{"exact": {"data.customer.country": "NO"}}, {"not": {"prefix": {"subject": "test-"}}}]
}


class Filter(BaseModel):
    """One dialect of the CloudEvents Subscriptions API; several comparisons in one must all hold.

    Names are attributes, or paths into the payload: keys and list positions between dots, such as
    `data.lines.0.sku`. Attributes are compared with text; in the payload `exact` takes any string, number,
    boolean or null and keeps their types apart. What is missing does not match. At most 16 deep, 256
    comparisons, 16,384 characters.
    """

    model_config = ConfigDict(
        extra="forbid", json_schema_extra={"minProperties": 1, "maxProperties": 1, "examples": [EXAMPLE]}
    )

    exact: dict[str, str | float | bool | None] = Field(
        default={}, min_length=1, description="equal", examples=[{"data.customer.country": "NO"}]
    )
    prefix: dict[str, str] = Field(
        default={}, min_length=1, description="begins with", examples=[{"subject": "eu-"}]
    )
    suffix: dict[str, str] = Field(
        default={}, min_length=1, description="ends with", examples=[{"source": "/shop"}]
    )
    all: list[Filter] = Field(default=[], min_length=1, description="each of these holds")
    any: list[Filter] = Field(default=[], min_length=1, description="one of these holds")
    not_: Filter | None = Field(default=None, alias="not", description="this does not hold")
