"""What the OpenAPI document says of NDJSON uploads, and the route that tells how far one has come."""

from __future__ import annotations

from hashlib import sha256
from typing import Annotated, Any

from fastapi import APIRouter, Path, Response

from busway.contract.uploads import PRODUCER_ID, Producer
from busway.gateway.access.scopes import Access
from busway.gateway.api import answers
from busway.gateway.api.access import HolderDep, needs
from busway.gateway.api.answers import when
from busway.gateway.api.describing import Trouble
from busway.gateway.api.describing import answers as described
from busway.gateway.api.stages import StagesDep
from busway.gateway.errors import NotFound
from busway.gateway.ingest.codecs.choosing import NDJSON
from busway.gateway.ingest.upload import missing_lines

router = APIRouter(prefix="/v1/producers", tags=["events"])

MISSING_LINES: Trouble = (
    "Lines before the first one of an NDJSON upload are missing.",
    missing_lines(7, 3).detail,
)
_NONE: Trouble = (
    "Nothing is known of this producer, or it was forgotten after seven days without a line.",
    "there is no producer 'import-7': it sent no line yet, or none for seven days",
)
_EXAMPLE = '{"type": "order.created", "data": {"item": "book"}}\n{"type": "order.created"}\n'


def stored_id(access: Access, id_: str) -> str:
    """Return the id under which the store knows a producer. It belongs to keys with the same type patterns.

    Otherwise a limited key could have lines of types that it may not publish skipped.
    """
    if not access.types:
        return id_
    return f"{sha256(' '.join(sorted(access.types)).encode()).hexdigest()[:16]}/{id_}"


def describe(publish: dict[str, Any]) -> None:
    """Add NDJSON and its headers to the description of the route that publishes events."""
    publish["requestBody"]["content"][NDJSON] = {
        "schema": {"type": "string", "description": "One event a line, each as in `application/json`."},
        "example": _EXAMPLE,
    }
    publish["parameters"] = [
        _header(
            "Producer-Id",
            "NDJSON only: names the lines that are sent, in one upload or several. Lines that an earlier "
            "upload with this id sent are skipped. It is kept for seven days, and belongs to API keys with "
            "the same type patterns.",
            {"type": "string", "pattern": PRODUCER_ID},
        ),
        _header(
            "Producer-Seq",
            "NDJSON only: the number of the first line of this upload among all lines of its `Producer-Id`, "
            "counted from 0.",
            {"type": "integer", "minimum": 0, "default": 0},
        ),
    ]


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "required": False, "description": description, "schema": schema}


@router.get(
    "/{id}",
    summary="Retrieve a producer",
    dependencies=needs("publish"),
    responses=described(Producer, "How far its uploads have come.", problems={404: _NONE}),
)
async def read_producer(
    stages: StagesDep,
    access: HolderDep,
    id: Annotated[  # noqa: A002 - the contract's name
        str,
        Path(
            description="The `Producer-Id` of an NDJSON upload.",
            pattern=PRODUCER_ID,
            examples=["import-2026-01-31"],
        ),
    ],
) -> Response:
    """Returns how many lines with this `Producer-Id` are taken, and what became of them.

    An upload that goes on sends the line of number `lines`, counted from 0, next.
    """
    found = await stages.reader.producer(stored_id(access, id))
    if found is None:
        raise NotFound(f"there is no producer {id!r}: it sent no line yet, or none for seven days")
    return answers.json(
        Producer(
            id=id,
            lines=found.lines,
            accepted=found.accepted,
            duplicates=found.duplicates,
            rejected_total=found.rejected,
            created_at=when(found.created_at),
            updated_at=when(found.updated_at),
        )
    )
