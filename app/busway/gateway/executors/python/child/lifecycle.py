"""`setup()` and `teardown()` of handler files, called once in each worker."""

from __future__ import annotations

import contextlib
import inspect
import sys
from collections.abc import Callable, Coroutine, Iterable
from contextvars import Context
from typing import Any, Protocol

from busway.gateway.executors.python.child import logs, output
from busway.gateway.executors.python.child.failure import summary
from busway.gateway.executors.python.child.loading import Module

_UNSET: Any = object()


class Await(Protocol):
    """Runs coroutines on the worker's event loop, in other threads than the loop's own."""

    def __call__(self, coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        """Run a coroutine in that context and return its value."""


class SetupFailed(Exception):
    """`setup()` of the target's file raised. `__cause__` is the exception."""


def prepare(module: Module, log: output.Log | None, wait: Await) -> None:
    """Run `setup()` of the module, and of those before it, if they have not succeeded in this worker yet.

    The attempts run in copies of the context that they leave. Their output goes to `log`, if it is not None.

    Raises:
        SetupFailed: one of them raised.
    """
    for earlier in module.before:
        prepare(earlier, log, wait)
    module.used = True
    if module.ready:
        return
    with module.lock:
        if module.ready:
            return
        context = module.context.copy()
        for earlier in module.before:
            context.run(_take_over, earlier)
        if module.setup is not None:
            logs.step_back()
            try:
                context.run(output.current.set, log)
                _call(module.setup, context, wait)
            except BaseException as problem:
                raise SetupFailed(f"setup() of {module.file} failed") from problem
            finally:
                logs.settle()
            context.run(output.current.set, None)
        module.adopt(context)
        module.ready = True


def _take_over(earlier: Module) -> None:
    """Set the variables of the current context that `setup()` of another module has set."""
    for variable, value in earlier.context.items():
        if variable is not output.current and earlier.imported.get(variable, _UNSET) is not value:
            variable.set(value)


def copy_decimals() -> None:
    """Give the current context a copy of its context of `decimal`: copies of a context share the object."""
    decimal = sys.modules["decimal"]
    decimal.setcontext(decimal.getcontext().copy())


def teardown(modules: Iterable[Module], wait: Await) -> None:
    """Run `teardown()` of the modules that had an attempt here, and of those before them, in reverse order.

    Exceptions are written to the worker's output.
    """
    chains = dict.fromkeys(each for module in modules for each in module.chain())
    for module in reversed(chains):
        if not module.used or module.teardown is None:
            continue
        output.outside(f"{module.file}: ")
        try:
            _call(module.teardown, module.context, wait)
        except BaseException as problem:
            with contextlib.suppress(BaseException):  # handler code may have replaced the stream
                sys.stderr.write(f"teardown() of {module.file} failed: {summary(problem)}\n")


def _call(function: Callable[[], Any], context: Context, wait: Await) -> None:
    value = context.run(function)
    if inspect.iscoroutine(value):
        wait(value, context)
