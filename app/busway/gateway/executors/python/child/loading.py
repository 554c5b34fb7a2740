"""Import the handlers folder, module by module, and return what it defines. Runs only in child processes."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import threading
import types
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextvars import Context, copy_context
from pathlib import Path
from typing import Any

import msgspec

from busway import handlers
from busway.domain.classes import stored
from busway.gateway.executors.port import HandlerFile
from busway.gateway.executors.python.child.failure import clean, describe
from busway.gateway.executors.python.child.importing import (
    extend_path,
    in_project,
    is_own_code,
    observers_of_source,
)
from busway.gateway.executors.python.child.modules import Importer, Refused, is_name, parts_of
from busway.gateway.executors.python.child.targets import declarations_of, own, targets_of, why_unbound
from busway.gateway.executors.python.wire import protocol as wire
from busway.gateway.executors.python.wire.folder import walk
from busway.gateway.executors.python.wire.protocol import Boot
from busway.payloads import Payload

_name_of = stored(ImportError, "name")
_DECLARES = re.compile(rb"^\s*@(busway\.)?handler\b", re.MULTILINE)
_NOTES = 100  # of one file
_SOURCE, _SOURCES = 256 * 1024, 4 << 20  # bytes of a source, and of all, that the gateway is sent
_INIT = "__init__.py"
_NO_FILE = HandlerFile("", "")


class Module:
    """An imported module of handler code, with its `setup` and `teardown` functions (None if missing).

    `before`: modules whose `setup` comes first: its packages, and the files that import it if it belongs to
    the user's project. `ready`: `setup` has succeeded, also theirs. `used`: an attempt of the module has
    started here. `context`: attempts run in copies of it; `imported`: the context after its import.
    `has_decimals`: `context` holds a context of `decimal`.
    """

    def __init__(self, file: str, module: types.ModuleType, before: Iterable[Module] = ()) -> None:
        self.file = file
        self.setup = own(module, "setup")
        self.teardown = own(module, "teardown")
        self.before: tuple[Module, ...] = tuple(
            each for each in before if each.setup or each.teardown or each.before
        )
        self.lock = threading.Lock()
        self.ready = self.setup is None and not self.before
        self.used = False
        self.imported = copy_context()
        self.adopt(self.imported)

    def adopt(self, context: Context) -> None:
        """Let attempts run in copies of this context."""
        self.context = context
        self.has_decimals = any(variable.name == "decimal_context" for variable in context)

    def chain(self) -> Iterator[Module]:
        """Return the modules whose `setup` its attempts need, in their order."""
        for module in self.before:
            yield from module.chain()
        yield self


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
    """Import every module of the handlers folder that is not skipped.

    These are the files `*.py` of the folder and of the folders in it, with or without `__init__.py`. Left out
    are names that begin with `_` or `.`, tests (`test_*.py`, `*_test.py`, `conftest.py`, folders `tests`) and
    virtual environments. Declared functions of the user's project that these modules import belong to the
    folder, too.

    Args:
        boot: the folder, the user's project, and the files to skip, each with the reason, which becomes its
            error.
        announce: called with each file, by its path below the folder, before it is imported.
        entered: called with each directory of the user's project that an import searches.
    """
    folder = Path(os.fsdecode(boot.folder)).resolve()
    app_dir = os.fsdecode(boot.app_dir)
    extend_path(str(folder), app_dir, entered)
    loading = _Loading(folder, app_dir, boot.skip, announce)
    handlers.observers.append(loading.observe)
    observers_of_source.append(loading.compiled)
    try:
        loading.import_folder()
    finally:
        handlers.observers.remove(loading.observe)
        observers_of_source.remove(loading.compiled)
    loading.add_project()
    return loading.finish()


class _Loading:
    def __init__(
        self, folder: Path, app_dir: str, skip: dict[str, str], announce: Callable[[str], None]
    ) -> None:
        self._folder, self._app_dir, self._skip, self._announce = folder, app_dir, skip, announce
        self._importer = Importer(folder)
        self._files: dict[str, HandlerFile] = {}
        self._entries: dict[str, LoadedTarget] = {}
        self._names: dict[str, str] = {}  # the file of each declared handler
        self._modules: dict[str, Module] = {}  # by file
        self._imported: dict[str, types.ModuleType] = {}  # by file
        self._failed: dict[str, str] = {}  # packages, each with its file
        self._notes: defaultdict[str, list[str]] = defaultdict(list)
        self._errors: dict[str, str] = {}  # of targets, by file
        self._declared: list[tuple[str, Callable[..., Any]]] = []
        self._current = ""
        self._sources: dict[str, bytes] = {}
        self._left = _SOURCES  # bytes

    def observe(self, function: Callable[..., Any]) -> None:
        """Record that a function is declared by the import of the current file."""
        self._declared.append((self._current, function))

    def compiled(self, path: str, source: bytes) -> None:
        """Record the content of a file that is compiled now."""
        self._sources[path] = source

    # -- the folder

    def import_folder(self) -> None:
        """Import the modules of the folder."""
        files = [file for file, _ in walk(str(self._folder), self._note)]
        stems = {file.removesuffix(".py") for file in files}
        for file in files:
            if not file.isprintable():  # this includes bytes that are not UTF-8
                shown = file.encode(errors="backslashreplace").decode()
                error = "the file name has unprintable characters: rename it"
                self._files[shown] = HandlerFile(shown, "", error=error)
            elif not (_is_test(file) or self._is_left_out(file, stems)):
                self._current = file
                self._announce(file)
                self._files[file] = self._load_file(file)

    def _is_left_out(self, file: str, stems: set[str]) -> bool:
        """Return whether the name of a file keeps it from being loaded. Note why, unless it is private."""
        parts = file.removesuffix(".py").split("/")
        stem = parts.pop()
        for number, part in enumerate(parts, 1):
            above = "/".join(parts[:number])
            if not part.startswith("_") and not is_name(part):
                self._note(
                    f"{above}/", "it is not a valid package name: rename it to letters, digits and '_'"
                )
                return True
            if above in stems and f"{above}/__init__" not in stems:
                self._note(f"{above}/", f"{above}.py has the same name: rename one of them")
                return True
        if f"{file.removesuffix('.py')}/__init__" in stems:
            self._note(file, f"the package {file.removesuffix('.py')}/ has the same name: rename one of them")
            return True
        if any(part.startswith("_") for part in parts) or (
            stem.startswith("_") and not (stem == "__init__" and parts)
        ):
            self._note_private(file)
            return True
        return False

    def _note_private(self, file: str) -> None:
        try:
            source = (self._folder / file).read_bytes()
        except OSError:
            return
        if _DECLARES.search(source):
            why = "its name or that of its folder begins with '_'"
            if file == _INIT:
                why = "the handlers folder itself is no package"
            self._note(file, f"it declares handlers, but {why}")

    def _load_file(self, file: str) -> HandlerFile:
        name, digest = ".".join(parts_of(file)), ""
        try:
            digest = hashlib.sha256((self._folder / file).read_bytes()).hexdigest()
            if (why := self._skip.get(file)) is not None:
                raise Refused(why)  # noqa: TRY301 - reported like any other
            packages = self._packages_of(file)
            if not all(is_name(part) for part in parts_of(file)):
                short = file.rpartition("/")[2]
                raise Refused(  # noqa: TRY301
                    f"{short} is not a valid module name: rename it to letters, digits and '_'"
                )
            module = self._importer.load(file)
            self._imported[file] = module
            return self._offered(file, self._folder / file, name, module, packages)
        except Refused as problem:
            error = clean(str(problem))
        except BaseException as problem:
            self._explain(file, problem)
            found = describe(problem)
            error = found.traceback or f"{found.type}: {found.message}"
        if file.endswith(f"/{_INIT}"):
            self._failed[file.removesuffix(f"/{_INIT}")] = file
        return HandlerFile(file, digest, error=error, name=name)

    def _packages_of(self, file: str) -> list[Module]:
        """Return the packages that a file is in, outermost first.

        Raises:
            Refused: one of them does not import.
        """
        parts = parts_of(file)
        above = ["/".join(parts[:number]) for number in range(1, len(parts))]
        for package in above:
            if package in self._failed:
                raise Refused(f"its package does not import: see {self._failed[package]}")
        found = [self._modules.get(f"{package}/{_INIT}") for package in above]
        return [module for module in found if module is not None]

    def _offered(
        self,
        file: str,
        path: Path,
        name: str,
        module: types.ModuleType,
        before: Iterable[Module],
        *,
        only_declared: bool = False,
    ) -> HandlerFile:
        """Add the targets and declarations of a module.

        Raises:
            Refused: a declaration is invalid.
        """
        loaded = Module(file, module, before)
        errors: dict[str, str] = {}
        offered = list(targets_of(module, name, errors, only_declared=only_declared))
        declarations = declarations_of(file, module, name, self._names, errors)
        content = self._sources.get(str(path))
        digest = hashlib.sha256(path.read_bytes() if content is None else content).hexdigest()
        found = HandlerFile(file, digest, [each.target for each in offered], declarations, name=name)
        if offered and content is not None and len(content) <= min(_SOURCE, self._left):
            self._left -= len(content)
            found = msgspec.structs.replace(found, source=content)
        wire.encode(found)  # raises for text that is not Unicode, such as a docstring with a lone surrogate
        self._modules[file] = loaded
        self._names.update((declaration.name, file) for declaration in declarations)
        for target, function, wants, payload in offered:
            self._entries[target.target] = LoadedTarget(function, target.kind, wants, loaded, payload)
        if errors:
            self._errors[file] = clean("\n".join(errors.values()))
        return found

    def _explain(self, file: str, problem: BaseException) -> None:
        """Add the cause if `handlers/orders.py` imports `orders.models` and so finds itself."""
        kind, top = type(problem), parts_of(file)[0]
        if issubclass(kind, ModuleNotFoundError):
            missing = _name_of(problem)
            ours = isinstance(missing, str) and missing.startswith(f"{top}.")
            if ours and in_project(self._app_dir, top):
                what = "" if "/" in file else ".py"
                note = f"{top}{what} hides the package {top!r} of your project: rename the file"
                BaseException.add_note(problem, note)
        elif issubclass(kind, ImportError) and "/" not in file and "no known parent package" in str(problem):
            note = "the handlers folder itself is no package: write `import x` instead of `from . import x`"
            BaseException.add_note(problem, note)

    # -- the user's project

    def add_project(self) -> None:
        """Add the declared functions of the user's project that the folder imported."""
        found: dict[str, tuple[types.ModuleType, list[str]]] = {}
        for importing, function in self._declared:
            module = _module_of(function)
            if module is not None and self._place_of(module)[0] == "project":
                found.setdefault(module.__name__, (module, []))[1].append(importing)
        for name, (module, users) in found.items():
            self._add_module(name, module, users)

    def _add_module(self, name: str, module: types.ModuleType, users: list[str]) -> None:
        file, digest = self._place_of(module)[1], ""
        if file in self._files or any(other.module == name for other in self._files.values()):
            self._note(file, f"the handlers folder has a module {name}, too: rename one of them")
            return
        users = [*users, *(each for each, other in self._imported.items() if _uses(other, module))]
        before = [self._modules[each] for each in dict.fromkeys(users) if each in self._modules]
        try:
            path = Path(str(module.__file__))
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            self._files[file] = self._offered(file, path, name, module, before, only_declared=True)
        except Exception as problem:
            error = str(problem) if type(problem) is Refused else describe(problem).message
            self._files[file] = HandlerFile(file, digest, error=clean(error), name=name)

    def _place_of(self, module: types.ModuleType) -> tuple[str, str]:
        """Return where a module is: `folder`, `project` or `elsewhere`, and its file relative to that."""
        path = getattr(module, "__file__", None)
        if not isinstance(path, str):
            return "elsewhere", ""
        real = os.path.realpath(path)
        if real.startswith(f"{self._folder}/"):
            return "folder", os.path.relpath(real, self._folder)
        if is_own_code(self._app_dir, path) and is_own_code(self._app_dir, real):
            return "project", clean(os.path.relpath(path, self._app_dir))
        return "elsewhere", path

    # -- what is not loaded

    def finish(self) -> LoadedFolder:
        """Return what was loaded, with notes on what was not."""
        loaded = {id(entry.function) for entry in self._entries.values()}
        for importing, function in self._declared:
            if id(function) not in loaded:
                loaded.add(id(function))
                self._note_function(importing, function)
        files: list[HandlerFile] = []
        for file in self._files.values():
            if file.file in self._errors:  # of some of its targets: the others work
                files.append(
                    HandlerFile(file.file, file.digest, error=self._errors[file.file], name=file.name)
                )
            files.append(msgspec.structs.replace(file, notes=self._notes.pop(file.file, [])))
        files += [HandlerFile(path, "", notes=notes) for path, notes in self._notes.items()]
        return LoadedFolder(files, self._entries)

    def _note_function(self, importing: str, function: Callable[..., Any]) -> None:
        module = _module_of(function)
        if module is None and self._files.get(importing, _NO_FILE).error is not None:
            return  # its import failed: the file that needs it is reported as a whole
        place, file = ("elsewhere", "") if module is None else self._place_of(module)
        if place == "elsewhere":
            file, why = importing, "it is not defined in the handlers folder or in the project (--app-dir)"
        else:
            if file not in self._modules or (place == "folder" and self._imported.get(file) is not module):
                return  # the file is reported as a whole, or this is a second copy of it
            reason = why_unbound(function, module)
            if reason is None:
                return
            why = reason
        name = getattr(function, "__qualname__", repr(function))
        self._note(file, f"{name}() has @handler, but is not loaded: {why}")

    def _note(self, file: str, why: str) -> None:
        notes = self._notes[clean(file)]
        if clean(why) not in notes and len(notes) < _NOTES:
            notes.append(clean(why))


def _is_test(file: str) -> bool:
    name = file.rpartition("/")[2]
    return name.startswith("test_") or name.endswith("_test.py") or name == "conftest.py"


def _module_of(function: Callable[..., Any]) -> types.ModuleType | None:
    name = getattr(function, "__module__", None)
    module = sys.modules.get(name) if isinstance(name, str) else None
    return module if isinstance(module, types.ModuleType) else None


def _uses(user: types.ModuleType, module: types.ModuleType) -> bool:
    """Return whether a module has another one, or a declared function of it, among its names."""
    for value in vars(user).values():
        if value is module:
            return True
        ours = type(value) is types.FunctionType and value.__module__ == module.__name__
        if ours and handlers.declared(value):
            return True
    return False
