"""Import the modules and packages of the handlers folder under their names."""

from __future__ import annotations

import importlib
import importlib.util
import keyword
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path

from busway.gateway.executors.python.child.importing import Uncached

_HIDDEN = "busway_handlers"
_INIT = "__init__"


class Refused(Exception):
    """A file cannot be used, or a declaration in it is invalid. The message says why."""


def parts_of(file: str) -> list[str]:
    """Return the parts of the module name of a file, given by its path below the folder."""
    parts = file.removesuffix(".py").split("/")
    return parts[:-1] if parts[-1] == _INIT and len(parts) > 1 else parts


def is_name(part: str) -> bool:
    """Return whether a file or folder with this name, without `.py`, can be imported by it."""
    return part.isidentifier() and part.isascii() and not keyword.iskeyword(part)


class Importer:
    """Imports modules of the folder.

    A module or package of the folder whose name a library has gets another one, below `busway_handlers`, so
    that `import NAME` still finds the library.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._tops: dict[str, str] = {}

    def load(self, file: str) -> types.ModuleType:
        """Import the module of a file, given by its path below the folder."""
        top, *rest = parts_of(file)
        return importlib.import_module(".".join([self._top(top), *rest]))

    def _top(self, name: str) -> str:
        """Return the name of a top-level module or package, which can be imported then."""
        known = self._tops.get(name)
        if known is None:
            known = self._tops[name] = name if self._is_ours(name) else f"{_HIDDEN}.{name}"
        if known != name and known not in sys.modules:
            self._import_hidden(known, self._folder / name)
        return known

    def _is_ours(self, name: str) -> bool:
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):
            return False
        if spec is None:
            return False
        if spec.origin is not None and spec.has_location:
            path = Path(spec.origin)
            return path in {self._folder / f"{name}.py", self._folder / name / f"{_INIT}.py"}
        return str(self._folder / name) in (spec.submodule_search_locations or ())

    def _import_hidden(self, hidden: str, path: Path) -> None:
        init, file = path / f"{_INIT}.py", path.with_name(f"{path.name}.py")
        below = [str(path)] if path.is_dir() and (init.is_file() or not file.is_file()) else None
        source = file if below is None else init
        if source.is_file():
            loader = Uncached(hidden, str(source))
            spec = importlib.util.spec_from_file_location(
                hidden, source, loader=loader, submodule_search_locations=below
            )
        else:
            spec = ModuleSpec(hidden, None, is_package=True)
            spec.submodule_search_locations = below
        if spec is None:
            raise Refused(f"{source.name} cannot be imported")
        module = importlib.util.module_from_spec(spec)
        sys.modules[hidden] = module
        if spec.loader is None:
            return
        try:
            spec.loader.exec_module(module)
        except BaseException:
            del sys.modules[hidden]
            raise
