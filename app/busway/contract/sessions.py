"""Sessions of web pages."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from busway.contract.keys import SCOPES
from busway.contract.scalars import Time, one_of


class SessionIn(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """What signs in."""

    key: Annotated[
        str,
        Meta(
            min_length=1,
            max_length=16_384,
            description="An API key, or a token of the issuer that the gateway accepts.",
            examples=["bw_1_…"],
        ),
    ]


class Session(msgspec.Struct, kw_only=True):
    """What the sender of a request may do, and until when."""

    by: Annotated[
        str,
        one_of(["open", "key", "file", "token", "session"]),
        Meta(
            description="What gives the access. `open`: the gateway has no API keys, and everybody on its "
            "machine has full access. `key`: an API key of the database. `file`: one of the keys file. "
            "`token`: a token. `session`: the cookie of an API key or a token."
        ),
    ]
    key: Annotated[
        int | None,
        Meta(
            description="The number of the API key, or a negative number for the subject of a token. Null: "
            "there is none."
        ),
    ]
    name: Annotated[
        str | None, Meta(description="The name of the API key, or the subject of the token. Null: none.")
    ]
    scopes: list[Annotated[str, one_of(SCOPES)]]
    types: Annotated[
        list[str] | None, Meta(description="The type patterns that limit the key. Null: it is not limited.")
    ]
    expires_at: Annotated[Time | None, Meta(description="When the access ends. Null: it does not expire.")]
