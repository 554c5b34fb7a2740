"""Import the handlers folder file by file and return what it defines. Runs only in child processes."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import keyword
import os
import sys
import threading
import types
from collections.abc import Callable, Iterator
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any

import msgspec

from busway.domain.callables import kind_of, wants_context
from busway.domain.classes import stored
from busway.domain.handler import FieldError, check_fields
from busway.gateway.executors.port import Declaration, HandlerFile, Target
from busway.gateway.executors.python.child.failure import clean, describe
from busway.gateway.executors.python.child.importing import Uncached, extend_path, in_project
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.protocol import Boot
from busway.handlers import declared, first_line
from busway.payloads import Payload, payload_of

_HIDDEN = "busway_handlers"
_SPECIAL = ("setup", "teardown")
_name_of = stored(ImportError, "name")


class Module:
    """An imported file of the handlers folder, with its `setup` and `teardown` functions (None if missing).

    `ready`: `setup` has succeeded. `used`: an attempt of the file has started here. `context`: attempts run
    in copies of it. `has_decimals`: it holds a context of `decimal`.
    """

    def __init__(self, file: str, module: types.ModuleType) -> None:
        self.file = file
        self.setup = _own(module, "setup")
        self.teardown = _own(module, "teardown")
        self.lock = threading.Lock()
        self.ready = self.setup is None
        self.used = False
        self.adopt(copy_context())

    def adopt(self, context: Context) -> None:
        """Let attempts run in copies of this context."""
        self.context = context
        self.has_decimals = any(variable.name == "decimal_context" for variable in context)


class LoadedTarget(msgspec.Struct, frozen=True):
    """A target that can be called."""

    function: Callable[..., Any]
    kind: str
    wants_context: bool
    module: Module
    payload: Payload | None = None


def _ignore(_name: str) -> None:
    pass


class LoadedFolder(msgspec.Struct):
    """The contents of the folder: the catalog for the gateway, and the targets by name."""

    files: list[HandlerFile]
    entries: dict[str, LoadedTarget]


def load(
    boot: Boot, announce: Callable[[str], None] = _ignore, entered: Callable[[str], None] = _ignore
) -> LoadedFolder:
    """Import every file of the handlers folder that is not skipped.

    The top-level files `*.py` are imported, except those whose names begin with `_` or `.`.

    Args:
        boot: the folder, the user's project, and the files to skip, each with the reason, which becomes its
            error.
        announce: called with the name of each file before it is imported.
        entered: called with each directory of the user's project that an import searches.
    """
    folder = Path(os.fsdecode(boot.folder)).resolve()
    extend_path(str(folder), os.fsdecode(boot.app_dir), entered)
    loaded = LoadedFolder([], {})
    names: dict[str, str] = {}
    for path in sorted(folder.glob("*.py")):
        if path.name[0] in "_." or not path.is_file():
            continue
        if not path.name.isprintable():  # this includes bytes that are not UTF-8
            shown = path.name.encode(errors="backslashreplace").decode()
            error = "the file name has unprintable characters: rename it"
            loaded.files.append(HandlerFile(shown, "", error=error))
            continue
        announce(path.name)
        loaded.files += _load_file(path, boot, names, loaded.entries)
    return loaded


def _load_file(
    path: Path, boot: Boot, names: dict[str, str], entries: dict[str, LoadedTarget]
) -> list[HandlerFile]:
    """Return what the file defines, after an entry with the errors of its targets if there are any."""
    digest, set_aside = "", boot.skip.get(path.name)
    try:
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if set_aside is not None:
            return [HandlerFile(path.name, digest, error=set_aside)]
        module = _import(path)
        targets, functions, errors = _targets(path, module)
        declarations = _declarations(path, module, names, errors)
        loaded = HandlerFile(path.name, digest, targets, declarations)
        wire.encode(loaded)  # raises for text that is not Unicode, such as a docstring with a lone surrogate
    except _Refused as problem:
        return [HandlerFile(path.name, digest, error=clean(str(problem)))]
    except BaseException as problem:
        _explain(path, os.fsdecode(boot.app_dir), problem)
        error = describe(problem)
        return [HandlerFile(path.name, digest, error=error.traceback or f"{error.type}: {error.message}")]
    names.update((declaration.name, path.name) for declaration in declarations)
    entries.update(functions)
    if not errors:
        return [loaded]
    return [HandlerFile(path.name, digest, error=clean("\n".join(errors.values()))), loaded]


def _explain(path: Path, app_dir: str, problem: BaseException) -> None:
    """Add the cause if `handlers/orders.py` imports `orders.models` and so finds itself."""
    missing = _name_of(problem) if issubclass(type(problem), ModuleNotFoundError) else None
    if not isinstance(missing, str) or not missing.startswith(f"{path.stem}."):
        return
    if in_project(app_dir, path.stem):
        note = f"{path.name} hides the package {path.stem!r} of your project: rename the file"
        BaseException.add_note(problem, note)


class _Refused(Exception):
    """The file was imported, but a declaration in it is invalid."""


def _import(path: Path) -> types.ModuleType:
    name = path.stem
    if not name.isidentifier() or not name.isascii() or keyword.iskeyword(name):
        raise _Refused(f"{path.name} is not a valid module name: rename it to letters, digits and '_'")
    if _is_ours(name, path):
        return importlib.import_module(name)
    return _import_hidden(name, path)


def _is_ours(name: str, path: Path) -> bool:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError):
        return False
    return spec is not None and spec.origin is not None and Path(spec.origin) == path


def _import_hidden(name: str, path: Path) -> types.ModuleType:
    # A library has this name. The file gets another one, so that `import NAME` still finds the library.
    hidden = f"{_HIDDEN}.{name}"
    spec = importlib.util.spec_from_file_location(hidden, path, loader=Uncached(hidden, str(path)))
    if spec is None or spec.loader is None:
        raise _Refused(f"{path.name} cannot be imported")
    module = importlib.util.module_from_spec(spec)
    sys.modules[hidden] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[hidden]
        raise
    return module


def _own(module: types.ModuleType, name: str) -> types.FunctionType | None:
    found = vars(module).get(name)
    if type(found) is not types.FunctionType:  # not isinstance, which asks a proxy for its class
        return None
    return found if found.__module__ == module.__name__ else None


def _functions(module: types.ModuleType) -> Iterator[tuple[str, types.FunctionType]]:
    for name in vars(module):
        function = _own(module, name)
        if function is not None:
            yield name, function


def _targets(
    path: Path, module: types.ModuleType
) -> tuple[list[Target], dict[str, LoadedTarget], dict[str, str]]:
    """Return the targets of a file, how to call each, and the errors of those that cannot be called."""
    targets: list[Target] = []
    entries: dict[str, LoadedTarget] = {}
    errors: dict[str, str] = {}
    loaded = Module(path.name, module)
    for name, function in _functions(module):
        wants = wants_context(function)
        if name.startswith("_") or name in _SPECIAL or not name.isascii() or wants is None:
            continue
        try:
            payload = payload_of(function)
        except Exception as problem:
            errors[name] = f"{path.name}: {name}(): {describe(problem).message}"
            continue
        target = f"{path.stem}:{name}"
        targets.append(Target(target, kind_of(function), first_line(function)))
        entries[target] = LoadedTarget(function, kind_of(function), wants, loaded, payload)
    return targets, entries, errors


def _declarations(
    path: Path, module: types.ModuleType, names: dict[str, str], errors: dict[str, str]
) -> list[Declaration]:
    declarations: dict[str, Declaration] = {}
    seen: set[int] = set()
    for name, function in _functions(module):
        if id(function) in seen or name in errors:
            continue
        seen.add(id(function))
        for fields in declared(function):
            handler = fields["name"]
            if handler in declarations or handler in names:
                who = f"{path.name}: {name}() declares the handler {handler!r}"
                other = names.get(handler, path.name)
                raise _Refused(f"{who}, which {other} already declares: give one of them another name=")
            declarations[handler] = Declaration(handler, _checked(path, name, function, fields))
    return list(declarations.values())


def _checked(path: Path, name: str, function: types.FunctionType, fields: dict[str, Any]) -> dict[str, Any]:
    where = f"{path.name}: @handler of {name}()"
    if name in _SPECIAL or name.startswith("_") or not name.isascii():
        raise _Refused(f"{where}: a function with this name cannot be a target: rename it")
    if wants_context(function) is None:
        raise _Refused(f"{where}: a target must take (event) or (event, ctx)")
    fields = {**fields, "target": f"{path.stem}:{name}"}
    try:
        check_fields(fields)
    except FieldError as problem:
        raise _Refused(f"{where}: {problem.field}: {problem}") from None
    return fields
