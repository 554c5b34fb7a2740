"""Decodes request bodies into the contract's types."""

from __future__ import annotations

import asyncio
from typing import Any, TypeVar

import msgspec
from fastapi import Request

from busway.contract import checking
from busway.domain.text import JSONError, check_json, parse_json
from busway.gateway.errors import BadRequest, Invalid

T = TypeVar("T", bound=msgspec.Struct)


async def read(request: Request, shape: type[T]) -> T:
    """Decode a body.

    Raises:
        BadRequest: it is not valid JSON.
        Invalid: it does not match the type.
    """
    try:
        body = await request.body()
        value = parse_json(body)
        await asyncio.sleep(0)
        check_json(body, value)
        await asyncio.sleep(0)
    except JSONError as problem:
        raise BadRequest(str(problem)) from None
    return fit(value, shape)


def fit(value: Any, shape: type[T]) -> T:
    """Convert decoded JSON into a type of the contract.

    Raises:
        Invalid: it does not match. `errors` lists the invalid fields.
    """
    try:
        return checking.read(value, shape)
    except checking.Mismatch as problem:
        raise Invalid.of(problem.fields) from None
