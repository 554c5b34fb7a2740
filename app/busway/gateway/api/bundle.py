"""One script of many modules, so that a browser waits for one answer instead of thirty.

Not a general bundler. It takes modules as those of the console: imports of names in one line at the top,
exports where they are declared, and no module that needs itself.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Mapping

_IMPORT = re.compile(r'^import \{(.*)\} from "(.*)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:const|class|function|async function) (?:(\w+)|\{(.*)\} =))", re.MULTILINE)
_LEFT = re.compile(r"^(import|export)\b.*", re.MULTILINE)


def bundle(modules: Mapping[str, str], first: str) -> str:
    """Return one script that does what `first` does with all that it imports.

    Args:
        modules: the source of each module by its path.
        first: the path of the module that imports the others.

    Raises:
        ValueError: a module imports what does not exist, needs itself, or has a form that is not taken.
    """
    done: dict[str, str] = {}
    begun: set[str] = set()

    def add(path: str) -> None:
        if path in done:
            return
        if path in begun:
            raise ValueError(f"the module {path} needs itself")
        begun.add(path)
        for _, wanted in _IMPORT.findall(modules[path]):
            add(_resolved(path, wanted, modules))
        done[path] = _wrapped(path, modules)  # after all that it imports

    add(first)
    return "".join(done.values())


def _resolved(path: str, wanted: str, modules: Mapping[str, str]) -> str:
    found = posixpath.normpath(posixpath.join(posixpath.dirname(path), wanted))
    if found not in modules:
        raise ValueError(f"the module {path} imports {wanted}, which does not exist")
    return found


def _exported(source: str) -> list[str]:
    names: list[str] = []
    for _, one, several in _EXPORT.findall(source):
        names += [one] if one else [each.strip() for each in several.split(",")]
    return names


def _wrapped(path: str, modules: Mapping[str, str]) -> str:
    def imported(found: re.Match[str]) -> str:
        source = _resolved(path, found[2], modules)
        pairs = [each.strip().partition(" as ") for each in found[1].split(",")]
        if missing := {name for name, _, _ in pairs} - {*_exported(modules[source])}:
            raise ValueError(f"the module {path} imports {sorted(missing)}, which {source} does not export")
        names = ", ".join(f"{name}: {other}" if other else name for name, _, other in pairs)
        return f"const {{ {names} }} = {_variable(source)};\n"

    source = modules[path]
    body = _EXPORT.sub(r"\1", _IMPORT.sub(imported, source))
    if left := _LEFT.search(body):
        raise ValueError(f"the module {path} has a line that is not taken: {left[0]}")
    names = ", ".join(_exported(source))
    return f"// {path}\nconst {_variable(path)} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();\n"


def _variable(path: str) -> str:
    return "$" + re.sub(r"\W", "_", path.removesuffix(".js"))
