"""How SQLite spells the constructs of the core. Import it before statements are compiled."""

from __future__ import annotations

from typing import Any

from sqlalchemy.ext.compiler import compiles

from busway.gateway.store.core.constructs import (
    among,
    binary_payload,
    json_payload,
    text_bytes,
    without_traceback,
)


@compiles(among, "sqlite")
def _among(element: among, compiler: Any, **options: Any) -> str:
    column, numbers = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} IN (SELECT value FROM json_each({numbers}))"  # noqa: S608 - made of compiled parts


@compiles(json_payload, "sqlite")
def _json_payload(element: json_payload, compiler: Any, **options: Any) -> str:
    data, binary = (compiler.process(each, **options) for each in element.clauses)
    return f"CASE WHEN {binary} = 0 THEN CAST({data} AS TEXT) END"


@compiles(binary_payload, "sqlite")
def _binary_payload(element: binary_payload, compiler: Any, **options: Any) -> str:
    data, binary = (compiler.process(each, **options) for each in element.clauses)
    return f"CASE WHEN {binary} = 1 THEN hex({data}) END"


@compiles(without_traceback, "sqlite")
def _without_traceback(element: without_traceback, compiler: Any, **options: Any) -> str:
    (error,) = (compiler.process(each, **options) for each in element.clauses)
    return f"CASE WHEN json_valid({error}) = 1 THEN json_remove({error}, '$[2]') END"


@compiles(text_bytes, "sqlite")
def _text_bytes(element: text_bytes, compiler: Any, **options: Any) -> str:
    (text,) = (compiler.process(each, **options) for each in element.clauses)
    return f"coalesce(length(CAST({text} AS BLOB)), 0)"
