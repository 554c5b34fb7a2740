"""Sources of webhooks, and what their senders get."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import msgspec
from msgspec import UNSET, Meta, UnsetType

from busway.contract.events import Receipt
from busway.contract.filters import Filter
from busway.contract.scalars import Page, Time, one_of
from busway.domain import times
from busway.domain.handler import MAX_DESCRIPTION, NAME, RULES
from busway.domain.source import HEADER, KINDS, MAX_SECRET, MIN_SECRET, SIGNATURE_HEADER, check_template

Kind = Literal["github", "stripe", "slack", "standard", "hmac"]


def _check_kind(value: object) -> str | None:
    return None if value in KINDS else f"kind must be one of {', '.join(KINDS)}"


def _check_header(value: object) -> str | None:
    if value is None or (isinstance(value, str) and HEADER.fullmatch(value)):
        return None
    return "it must be the name of a header in lower case, such as x-signature, or null"


def _check_secret(value: object) -> str | None:
    if value is None or (isinstance(value, str) and MIN_SECRET <= len(value) <= MAX_SECRET):
        return None
    return f"secret must be a string of {MIN_SECRET} to {MAX_SECRET} characters, or null for a new one"


def _check_until(value: object) -> str | None:
    if value is None:
        return None
    if not isinstance(value, str):
        return "expected an RFC 3339 time, such as 2027-01-31T12:00:00Z, or null"
    try:
        times.from_text(value)
    except (ValueError, OverflowError) as problem:
        return str(problem)
    return None


def _rule(field: str) -> Mapping[str, Any]:
    return {"rule": RULES[field]}


SourceName = Annotated[
    str,
    Meta(
        pattern=f"^{NAME.pattern}$",
        description="The unique name of the source. The sender posts to `/v1/hooks/NAME`.",
        examples=["repo"],
        extra=_rule("name"),
    ),
]
SourceKind = Annotated[
    Kind,
    Meta(
        description="Whose rules for signatures and ids hold. `standard`: Standard Webhooks. `hmac`: any "
        "sender that signs the body with HMAC-SHA256.",
        extra={"rule": _check_kind},
    ),
]
Template = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=255,
        description="The type of its events. `{event}` is the sender's name of the event, `{header.NAME}` a "
        "header, `{data.PATH}` a value of the payload. A segment with a missing field is left out.",
        examples=["github.{event}"],
        extra={"rule": check_template},
    ),
]
Filtered = Annotated[
    Filter | None,
    Meta(
        description="Selects events: others are not stored, and answered like them. Null: all.",
        extra=_rule("filter"),
    ),
]
Secret = Annotated[
    str | None,
    Meta(
        description="The secret that the sender signs with. Null: a new one. Only the answer to this request "
        "shows it.",
        extra={"rule": _check_secret},
    ),
]
SignatureHeader = Annotated[
    str | None,
    Meta(
        description=f"Only of `hmac`: the header with the signature, hexadecimal or base64, perhaps after "
        f"`sha256=`. Null: `{SIGNATURE_HEADER}`.",
        examples=["x-shop-signature"],
        extra={"rule": _check_header},
    ),
]
IdHeader = Annotated[
    str | None,
    Meta(
        description="Only of `hmac`: the header with the id of the delivery, which becomes the event's id. "
        "Null: each request is another event.",
        examples=["x-delivery-id"],
        extra={"rule": _check_header},
    ),
]
Paused = Annotated[
    bool,
    Meta(
        description="While the source is paused, its webhooks get 503, and most senders repeat them later.",
        extra=_rule("paused"),
    ),
]
Description = Annotated[
    str, Meta(max_length=MAX_DESCRIPTION, description="Free text.", extra=_rule("description"))
]


class SourceIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """A source to create."""

    name: SourceName
    kind: SourceKind
    type: Template
    secret: Secret | UnsetType = UNSET
    filter: Filtered | UnsetType = UNSET
    signature_header: SignatureHeader | UnsetType = UNSET
    id_header: IdHeader | UnsetType = UNSET
    paused: Paused | UnsetType = UNSET
    description: Description | UnsetType = UNSET


class SourceChange(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """Fields of a source to set. Name and kind cannot be changed."""

    type: Template | UnsetType = UNSET
    secret: Secret | UnsetType = UNSET
    previous_secret_until: (
        Annotated[
            Time | None,
            Meta(
                description="Until when the secret before is valid, too. Null: no longer. With a new "
                "`secret`: for 24 hours, unless it is given.",
                extra={"rule": _check_until},
            ),
        ]
        | UnsetType
    ) = UNSET
    filter: Filtered | UnsetType = UNSET
    signature_header: SignatureHeader | UnsetType = UNSET
    id_header: IdHeader | UnsetType = UNSET
    paused: Paused | UnsetType = UNSET
    description: Description | UnsetType = UNSET


class Source(msgspec.Struct, kw_only=True):
    """A source without its secrets."""

    name: SourceName
    kind: Annotated[str, one_of(KINDS)]
    type: Template
    filter: Filtered
    signature_header: SignatureHeader
    id_header: IdHeader
    paused: Paused
    description: Description
    previous_secret_until: Annotated[
        Time | None, Meta(description="Until when the secret before is valid, too. Null: it is not.")
    ]
    created_at: Time
    updated_at: Time


class SourceWithSecret(Source, kw_only=True):
    """A source with its new secret, which is shown only once."""

    secret: Annotated[str, Meta(description="Enter it at the sender.", examples=["whsec_…"])]


class SourceList(Page[Source]):
    """A page of sources, by name."""


class HookAnswer(msgspec.Struct):
    """What the sender of a webhook gets, except Slack, which gets 200 without a body."""

    event: Annotated[
        Receipt | None,
        Meta(
            description="Null: nothing is stored, because it is a ping, or the filter of the source does not "
            "match."
        ),
    ]
