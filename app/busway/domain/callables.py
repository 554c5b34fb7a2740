"""The kind of a target function, and how it is called."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from typing import Any

if sys.version_info >= (3, 14):
    from annotationlib import Format

ASYNC = frozenset({"coroutine", "async_generator"})
"""Kinds of targets that run on an event loop."""

_POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
_CONTEXT_NAMES = ("ctx", "context")


def kind_of(function: Callable[..., Any]) -> str:
    """Return `function`, `coroutine`, `generator` or `async_generator`."""
    if inspect.isasyncgenfunction(function):
        return "async_generator"
    if inspect.iscoroutinefunction(function):
        return "coroutine"
    return "generator" if inspect.isgeneratorfunction(function) else "function"


def wants_context(function: Callable[..., Any]) -> bool | None:
    """Return whether a target takes `(event, ctx)`. None if it takes neither `(event, ctx)` nor `(event)`.

    A second parameter with a default is the context only if it is called `ctx` or `context`.
    """
    try:
        signature = signature_of(function)
    except (TypeError, ValueError):
        return None
    parameters = signature.parameters.values()
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return None
    found = positional(signature)
    required = sum(p.default is p.empty for p in found)
    if required > 2:
        return None
    if len(found) < 2:
        open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return False if found else (True if open_ended else None)
    return required == 2 or found[1].name in _CONTEXT_NAMES


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function. Its annotations may be text, or names that do not exist.

    Raises:
        TypeError, ValueError: it has none.
    """
    if sys.version_info >= (3, 14):
        return inspect.signature(function, annotation_format=Format.FORWARDREF)
    return inspect.signature(function)


def positional(signature: inspect.Signature) -> list[inspect.Parameter]:
    """Return the parameters that can be given by position."""
    return [p for p in signature.parameters.values() if p.kind in _POSITIONAL]
