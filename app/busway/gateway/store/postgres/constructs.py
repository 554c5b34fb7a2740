"""How PostgreSQL spells the constructs of the core. Import it before statements are compiled."""

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

# Type and message of `["type", "message", "traceback"]`.
_BRIEF = r'^\["(?:[^"\\]|\\.)*","(?:[^"\\]|\\.)*"'


@compiles(among, "postgresql")
def _among(element: among, compiler: Any, **options: Any) -> str:
    column, numbers = (compiler.process(each, **options) for each in element.clauses)
    return f"{column} = ANY ({numbers})"


@compiles(json_payload, "postgresql")
def _json_payload(element: json_payload, compiler: Any, **options: Any) -> str:
    data, binary = (compiler.process(each, **options) for each in element.clauses)
    return f"CASE WHEN {binary} = 0 THEN {data} END"


@compiles(binary_payload, "postgresql")
def _binary_payload(element: binary_payload, compiler: Any, **options: Any) -> str:
    data, binary = (compiler.process(each, **options) for each in element.clauses)
    return f"CASE WHEN {binary} = 1 THEN encode({data}, 'hex') END"


@compiles(without_traceback, "postgresql")
def _without_traceback(element: without_traceback, compiler: Any, **options: Any) -> str:
    (error,) = (compiler.process(each, **options) for each in element.clauses)
    return f"substring({error} FROM '{_BRIEF}') || ']'"


@compiles(text_bytes, "postgresql")
def _text_bytes(element: text_bytes, compiler: Any, **options: Any) -> str:
    (text,) = (compiler.process(each, **options) for each in element.clauses)
    return f"coalesce(octet_length({text}), 0)"
