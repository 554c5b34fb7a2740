"""Secrets of handlers: from variables `BUSWAY_SECRET_…`, and a file or folder that the operator names.

Only processes with handler code read them. What they have read is masked in their logs and errors.
"""

from __future__ import annotations

import io
import os
from collections.abc import Iterable
from pathlib import Path

from busway.domain.secret_values import Secrets
from busway.gateway.executors.python.child.masking import hide

PREFIX = "BUSWAY_SECRET_"
_MOST_BYTES = 1 << 20  # of a file

Stamp = tuple[int, int, int]


class SecretFiles:
    """Secrets of variables, then those of a file of lines `NAME=value`, or of a folder with a file for each.

    A file is read when a handler asks for a secret, and again when it has changed.

    Args:
        variables: by name, without the prefix.
        path: the file or folder. Empty: there is none.
    """

    def __init__(self, variables: dict[str, str], path: bytes) -> None:
        self.variables = variables
        self._path = Path(os.fsdecode(path)) if path else None
        self._read: dict[Path, tuple[Stamp, dict[str, str]]] = {}
        hide(variables.values())

    def secrets(self) -> Secrets:
        """Return them as handlers see them."""
        if self._path is None:
            advice = f"set {PREFIX}{{name}} where the gateway starts, or name a file with --secrets-file"
        else:
            shown = str(self._path).replace("{", "{{").replace("}", "}}")
            advice = f"put it into {shown} (--secrets-file), or set {PREFIX}{{name}} where the gateway starts"
        return Secrets(self._find, self._names, advice)

    def _find(self, name: str) -> str | None:
        value = self.variables.get(name)
        if value is not None or self._path is None:
            return value
        if self._path.is_dir():
            return self._content(self._path / name).get(name) if _is_name(name) else None
        return self._content(self._path).get(name)

    def _names(self) -> Iterable[str]:
        names = set(self.variables)
        if self._path is not None and self._path.is_dir():
            names |= {each.name for each in self._path.iterdir() if _is_name(each.name) and each.is_file()}
        elif self._path is not None:
            names |= set(self._content(self._path))
        return names

    def _content(self, file: Path) -> dict[str, str]:
        """Return the secrets of a file, which it is read for only if it has changed.

        Raises:
            OSError: it cannot be read.
            ValueError: it is too large or not UTF-8.
        """
        try:
            status = file.stat()
        except FileNotFoundError:
            if file == self._path:
                raise
            return {}
        stamp = status.st_mtime_ns, status.st_ino, status.st_size
        known = self._read.get(file)
        if known is not None and known[0] == stamp:
            return known[1]
        if status.st_size > _MOST_BYTES:
            raise ValueError(f"the file of secrets {str(file)!r} is larger than {_MOST_BYTES} bytes")
        try:
            text = file.read_text(encoding="utf-8-sig")
        except UnicodeDecodeError:
            raise ValueError(f"the file of secrets {str(file)!r} is not UTF-8: save it as UTF-8") from None
        found = _parse(text) if file == self._path else {file.name: _without_newline(text)}
        hide(found.values())
        self._read[file] = stamp, found
        return found


def _is_name(name: str) -> bool:
    """Return whether it can be the name of a file in the folder. Kubernetes has hidden ones of its own."""
    return bool(name) and not name.startswith(".") and "/" not in name and "\0" not in name


def _without_newline(text: str) -> str:
    """Return the content of a file without the newline that editors and `echo` add."""
    return text.removesuffix("\n").removesuffix("\r")


def _parse(text: str) -> dict[str, str]:
    try:
        from dotenv import dotenv_values  # noqa: PLC0415 - most workers need no file of secrets
    except ImportError:
        raise ValueError(
            "a file of secrets needs python-dotenv: pip install 'busway[server]', or use a folder of files"
        ) from None
    values = dotenv_values(stream=io.StringIO(text), interpolate=False)
    return {name: value for name, value in values.items() if value is not None}


class _Opened:
    files = SecretFiles({}, b"")


def open_secrets(path: bytes) -> None:
    """Take the secrets out of the environment, so that programs that handlers start do not inherit them.

    Args:
        path: the file or folder with more secrets, empty if there is none.
    """
    names = [name for name in os.environ if name.startswith(PREFIX) and name != PREFIX]
    _Opened.files = SecretFiles({name[len(PREFIX) :]: os.environ.pop(name) for name in names}, path)


def environment() -> dict[str, str]:
    """Return the variables with which another process of this program gets the same secrets."""
    return {PREFIX + name: value for name, value in _Opened.files.variables.items()}


def secrets() -> Secrets:
    """Return the secrets of this process."""
    return _Opened.files.secrets()
