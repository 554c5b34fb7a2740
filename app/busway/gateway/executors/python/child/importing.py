"""Import paths of handler code: the handlers folder and the user's project, both last on `sys.path`."""

from __future__ import annotations

import functools
import os
import sys
import time
import types
from collections.abc import Callable, Mapping
from functools import partial
from importlib.machinery import (
    BYTECODE_SUFFIXES,
    EXTENSION_SUFFIXES,
    SOURCE_SUFFIXES,
    ExtensionFileLoader,
    FileFinder,
    SourceFileLoader,
    SourcelessFileLoader,
)
from typing import Any

_SETTLED = 2.0  # seconds; bytecode files store whole seconds
_STANDARD_LIBRARY = os.path.dirname(os.__file__)  # noqa: PTH120 - a worker starts faster without another Path
_INSTALLED = ("/site-packages/", "/dist-packages/")


def extend_path(folder: str, app_dir: str, entered: Callable[[str], None]) -> None:
    """Make the modules of the handlers folder and of the user's project importable.

    Both come last on the path, the project after the folder, so that their files never hide a library.

    Args:
        folder: the handlers folder, absolute.
        app_dir: the root of the user's project, absolute; empty if there is none.
        entered: called with each directory of the project that an import searches.
    """
    hooks = [partial(_folder_finder, folder)]
    if app_dir:
        hooks.append(partial(_project_finder, app_dir, entered))
    sys.path_hooks[:0] = hooks
    # PYTHONPATH or an editable install may have put the project on the path already.
    for path in [path for path in sys.path_importer_cache if _in_project(app_dir, path)]:
        del sys.path_importer_cache[path]
    sys.path += [path for path in dict.fromkeys((folder, app_dir)) if path and path not in sys.path]


def in_project(app_dir: str, name: str) -> bool:
    """Return whether the user's project has a top-level module or package with this name."""
    root = os.path.join(app_dir, name)  # noqa: PTH118 - as above
    return bool(app_dir) and (os.path.isdir(root) or os.path.isfile(f"{root}.py"))  # noqa: PTH112, PTH113


def is_own_code(app_dir: str, path: str) -> bool:
    """Return whether a file of the user's project is their own code, and not that of an installed package.

    A package that `pip install --target` put there has its metadata beside it. One that is installed as
    editable counts as own code, as the project itself may be.
    """
    if not _in_project(app_dir, path):
        return False
    parts = path[len(app_dir.rstrip("/")) + 1 :].split("/")[:-1]
    above = [app_dir, *("/".join([app_dir.rstrip("/"), *parts[:n]]) for n in range(1, len(parts) + 1))]
    return not any(_has_packages(directory) for directory in above)


@functools.cache
def _has_packages(directory: str) -> bool:
    try:
        names = os.listdir(directory)  # noqa: PTH208 - as above
    except OSError:
        return False
    return any(name == "pyvenv.cfg" or name.endswith(".dist-info") for name in names)


observers_of_source: list[Callable[[str, bytes], None]] = []
"""Called with the path and the content of each source file that is compiled: the file may be another soon."""


class _Observed(SourceFileLoader):
    """Tells what it compiles."""

    def source_to_code(  # type: ignore[override]  # newer Pythons give it more
        self, data: Any, path: Any, *more: Any, **options: Any
    ) -> types.CodeType:
        """Compile a source."""
        for observe in observers_of_source:
            observe(path, data)
        return super().source_to_code(data, path, *more, **options)


class Uncached(_Observed):
    """Compiles the current source of a file and ignores bytecode caches.

    A cached bytecode file is valid while the time, in whole seconds, and the size of its source are the same.
    So if two versions were saved within a second, Python would run the first one.
    """

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Raise, so that no bytecode file is read or written."""
        raise OSError(f"{path} is always compiled from source")


class _Settled(_Observed):
    """Uses bytecode caches, except for a source that was saved within the last two seconds."""

    def path_stats(self, path: str) -> Mapping[str, Any]:
        """Return the time and size that a bytecode file is compared with."""
        stats = super().path_stats(path)
        if time.time() - stats["mtime"] < _SETTLED:
            raise OSError(f"{path} was saved less than two seconds ago")
        return stats


def _folder_finder(folder: str, path: str) -> FileFinder:
    if not _is_below(folder, path):
        raise ImportError(f"{path} is not below the handlers folder")
    return FileFinder(path, (ExtensionFileLoader, EXTENSION_SUFFIXES), (Uncached, SOURCE_SUFFIXES))


def _project_finder(app_dir: str, entered: Callable[[str], None], path: str) -> FileFinder:
    if not _in_project(app_dir, path) or not os.path.isdir(path):  # noqa: PTH112 - as above
        raise ImportError(f"{path} is not a directory of the user's project")
    entered(path)
    return FileFinder(
        path,
        (ExtensionFileLoader, EXTENSION_SUFFIXES),
        (_Settled, SOURCE_SUFFIXES),
        (SourcelessFileLoader, BYTECODE_SUFFIXES),
    )


def _in_project(app_dir: str, path: str) -> bool:
    # A virtual environment is often inside the project's folder, and a project may even contain Python.
    installed = _is_below(_STANDARD_LIBRARY, path) or any(part in f"{path}/" for part in _INSTALLED)
    return bool(app_dir) and _is_below(app_dir, path) and not installed


def _is_below(folder: str, path: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")
