"""The kind of a target function, and how it is called."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

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
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.KEYWORD_ONLY and p.default is p.empty for p in parameters):
        return None
    positional = [p for p in parameters if p.kind in _POSITIONAL]
    required = sum(p.default is p.empty for p in positional)
    if required > 2:
        return None
    if len(positional) < 2:
        open_ended = any(p.kind is p.VAR_POSITIONAL for p in parameters)
        return False if positional else (True if open_ended else None)
    return required == 2 or positional[1].name in _CONTEXT_NAMES
