"""The targets and declarations of a module, and the declared functions that are no targets."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from busway.domain.callables import kind_of, wants_context
from busway.domain.handler import FieldError, check_fields
from busway.gateway.executors.port import Declaration, Target
from busway.gateway.executors.python.child.failure import describe
from busway.gateway.executors.python.child.modules import Refused
from busway.handlers import declared, first_line
from busway.payloads import Payload, payload_of

SPECIAL = ("setup", "teardown")


def own(module: types.ModuleType, name: str) -> types.FunctionType | None:
    """Return the function that a module defines under a name, None if there is none."""
    found = vars(module).get(name)
    if type(found) is not types.FunctionType:  # not isinstance, which asks a proxy for its class
        return None
    return found if found.__module__ == module.__name__ else None


def _functions(module: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    for name in list(vars(module)):
        function = own(module, name)
        if function is not None:
            yield name, function


class Offered(NamedTuple):
    """A target, its function, whether that takes the context, and how its payload is converted."""

    target: Target
    function: types.FunctionType
    wants_context: bool
    payload: Payload | None


def targets_of(
    module: types.ModuleType, prefix: str, errors: dict[str, str], *, only_declared: bool
) -> Iterator[Offered]:
    """Return the targets of a module.

    Args:
        module: the module.
        prefix: its name in targets.
        errors: gets the errors of functions that cannot be called, by name.
        only_declared: leave out functions without `@handler`.
    """
    for name, function in _functions(module):
        wants = wants_context(function)
        if name.startswith("_") or name in SPECIAL or not name.isascii() or wants is None:
            continue
        if only_declared and not declared(function):
            continue
        try:
            payload = payload_of(function)
        except Exception as problem:
            errors[name] = f"{name}(): {describe(problem).message}"
            continue
        target = Target(f"{prefix}:{name}", kind_of(function), first_line(function))
        yield Offered(target, function, wants, payload)


def declarations_of(
    file: str, module: types.ModuleType, prefix: str, names: dict[str, str], errors: dict[str, str]
) -> list[Declaration]:
    """Return what the functions of a module declare.

    Args:
        file: its file, for messages.
        module: the module.
        prefix: its name in targets.
        names: the file of each handler that is declared already.
        errors: functions that cannot be called, by name. What they declare is left out, and what functions
            declare whose names begin with `_`.

    Raises:
        Refused: a declaration is invalid.
    """
    found: dict[str, Declaration] = {}
    seen: set[int] = set()
    for name, function in _functions(module):
        if id(function) in seen or name in errors or name.startswith("_"):
            continue
        seen.add(id(function))
        for fields in declared(function):
            handler = fields["name"]
            if handler in found or handler in names:
                who = f"{file}: {name}() declares the handler {handler!r}"
                other = names.get(handler, file)
                raise Refused(f"{who}, which {other} already declares: give one of them another name=")
            checked = _checked(f"{file}: @handler of {name}()", f"{prefix}:{name}", name, function, fields)
            found[handler] = Declaration(handler, checked)
    return list(found.values())


def _checked(
    where: str, target: str, name: str, function: types.FunctionType, fields: dict[str, Any]
) -> dict[str, Any]:
    if name in SPECIAL or not name.isascii():
        raise Refused(f"{where}: a function with this name cannot be a target: rename it")
    if wants_context(function) is None:
        raise Refused(f"{where}: a target must take (event) or (event, ctx)")
    fields = {**fields, "target": target}
    try:
        check_fields(fields)
    except FieldError as problem:
        raise Refused(f"{where}: {problem.field}: {problem}") from None
    return fields


def why_unbound(function: Callable[..., Any], module: types.ModuleType | None) -> str | None:
    """Return why a declared function is no target, None if its module has it under its name."""
    if type(function) is not types.FunctionType:
        return f"it is a {type(function).__name__}: a target must be a function"
    outer, _, name = function.__qualname__.rpartition(".")
    if outer:
        where = "inside a function" if outer.endswith("<locals>") else "in a class"
        return f"it is defined {where}: move it to the top level of its module"
    bound = None if module is None else vars(module).get(name)
    if bound is not function and not _wraps(bound, function):
        return _why_replaced(bound, name)
    return "its name begins with '_': rename it" if name.startswith("_") else None


def _why_replaced(bound: Any, name: str) -> str:
    if bound is None:
        return "its module has no such name: define it with `def` at the top level"
    if type(bound) is not types.FunctionType:
        return f"another decorator made it a {type(bound).__name__}: a target must be a function"
    if bound.__qualname__ != name:
        return "another decorator replaced it: put @handler above that one"
    return "its module defines the name again further down: give one of them another name"


def _wraps(outer: Any, inner: Any) -> bool:
    seen = 0
    while outer is not inner and seen < 100:
        outer = vars(outer).get("__wrapped__") if type(outer) is types.FunctionType else None
        if outer is None:
            return False
        seen += 1
    return outer is inner
