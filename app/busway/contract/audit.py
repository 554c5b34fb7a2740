"""The audit log."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

from busway.contract.scalars import Page, Time


class AuditEntry(msgspec.Struct, kw_only=True):
    """Who changed what, when, and from where."""

    id: Annotated[int, Meta(description="Its number. Entries are numbered in the order of the changes.")]
    time: Time
    actor: Annotated[
        str,
        Meta(
            description="Who asked for the change: `key:3` (the API key with this number), `file:…` (a key "
            "of the keys file), `token:SUBJECT` (a token), `open` (the gateway had no keys), or `cli` (a "
            "command on the database).",
            examples=["key:3"],
        ),
    ]
    name: Annotated[
        str | None,
        Meta(
            description="The name of the key, the subject of the token, or the system's user who ran "
            "the command. Null: unknown."
        ),
    ]
    address: Annotated[str | None, Meta(description="The address of the client. Null: a command.")]
    action: Annotated[str, Meta(description="What was done: a noun and a verb.", examples=["handler.paused"])]
    object: Annotated[
        str | None,
        Meta(description="The name or number of what was changed. Null: several, as `details` say."),
    ]
    details: Annotated[dict[str, Any], Meta(description="More, which depends on the action.")]
    node: Annotated[
        str | None, Meta(description="The node that stored the change. Null: a command, or the only node.")
    ]


class AuditList(Page[AuditEntry]):
    """A page of the audit log, newest first."""
