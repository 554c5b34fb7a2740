"""`setup()` and `teardown()` of handler files, called once in each worker."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from busway.gateway.executors.python.child.failure import summary
from busway.gateway.executors.python.child.loading import Module

Await = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs a coroutine on the worker's event loop and returns its value. Any other thread may call it."""


class SetupFailed(Exception):
    """`setup()` of the target's file raised. `__cause__` is the exception."""


def prepare(module: Module, wait: Await) -> None:
    """Run the file's `setup()` if it has not succeeded in this worker yet.

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
    """Run `teardown()` of the files that had an attempt here. Write exceptions to the worker's output."""
    for module in modules:
        if not module.used or module.teardown is None:
            continue
        try:
            _call(module.teardown, wait)
        except BaseException as problem:
            with contextlib.suppress(BaseException):  # handler code may have replaced the stream
                sys.stderr.write(f"teardown() of {module.file} failed: {summary(problem)}\n")


def _call(function: Callable[[], Any], wait: Await) -> None:
    value = function()
    if inspect.iscoroutine(value):
        wait(value)
