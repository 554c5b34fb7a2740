"""`setup()` and `teardown()` of handler files, once in each worker."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from busway.gateway.executors.python.child.failure import describe
from busway.gateway.executors.python.child.loading import Module

Await = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the worker's event loop and waits for it, from any other thread."""


class SetupFailed(Exception):
    """`setup()` of the target's file raised; `__cause__` is what."""


def prepare(module: Module, wait: Await) -> None:
    """Run the file's `setup()` if no attempt in this worker has done so; a failed one is run again.

    Raises:
        SetupFailed: it raised.
    """
    if module.setup is None:
        return
    with module.lock:
        if module.ready:
            return
        try:
            _call(module.setup, wait)
        except BaseException as problem:
            raise SetupFailed(f"setup() of {module.file} failed") from problem
        module.ready = True


def teardown(modules: Iterable[Module], wait: Await) -> None:
    """Run `teardown()` of the files that had an attempt here; what they raise is the worker's output."""
    for module in modules:
        if not module.used or module.teardown is None:
            continue
        try:
            _call(module.teardown, wait)
        except BaseException as problem:
            told = describe(problem)
            sys.stderr.write(f"teardown() of {module.file} failed: {told.type}: {told.message}\n")


def _call(function: Callable[[], Any], wait: Await) -> None:
    value = function()
    if inspect.iscoroutine(value):
        wait(value)
