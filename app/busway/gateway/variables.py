"""The variables `BUSWAY_…` of the environment and of the file `.env`, with the place where each stands."""

from __future__ import annotations

import difflib
import io
import logging
import os
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any, NamedTuple

from dotenv import dotenv_values

from busway.gateway.errors import BadSettings

log = logging.getLogger("busway")

FILE = Path(".env")
_PREFIX = "BUSWAY_"
_CLIENT = {"url", "key"}  # of the commands that speak to a gateway
_SECRET = "BUSWAY_SECRET_"  # noqa: S105 - how the names of secrets of handlers begin
# Kubernetes describes each Service in variables that begin with its name.
_LINK = re.compile(r"(?:tcp|udp|sctp)://.*", re.DOTALL)
_SERVICE = re.compile(r"(?:\w+_)?(?:service_(?:host|port(?:_\w+)?)|port_[0-9]+_(?:tcp|udp|sctp)_\w+)")


class Variable(NamedTuple):
    """A value of a setting.

    Attributes:
        name: the setting, such as `port`.
        value: its value.
        place: the option or variable and where it stands, such as `BUSWAY_PORT (.env)`.
    """

    name: str
    value: Any
    place: str


def read() -> list[Variable]:
    """Return all variables that are not empty, first those of `.env`, then those of the environment.

    Raises:
        BadSettings: `.env` cannot be read.
    """
    found = [(".env", *each) for each in _file().items()]
    found += [("environment", *each) for each in os.environ.items()]
    return [
        Variable(name[len(_PREFIX) :].lower(), value, f"{name} ({where})")
        for where, name, value in found
        if name.upper().startswith(_PREFIX) and value and value.strip()
    ]


def handler_secrets() -> dict[str, str]:
    """Return the variables with secrets of handlers. The environment wins over `.env`.

    Raises:
        BadSettings: as from `read`.
    """
    found = {name: value for name, value in _file().items() if value is not None} | dict(os.environ)
    return {name: value for name, value in found.items() if name.startswith(_SECRET)}


def settings(names: Collection[str]) -> dict[str, Variable]:
    """Return the values of these settings. The environment wins over `.env`. Log variables that are ignored.

    Raises:
        BadSettings: as from `read`.
    """
    found: dict[str, Variable] = {}
    for variable in read():
        name, value, place = variable
        of_kubernetes = _SERVICE.fullmatch(name) or _LINK.fullmatch(value)
        if name == "port" and of_kubernetes:
            log.warning(
                "%s is ignored, because Kubernetes sets it to %r for a Service named busway: "
                "set --port if you need another port, or enableServiceLinks: false in the pod",
                place,
                value,
            )
        elif name in names:
            found[name] = variable
        elif name not in _CLIENT and not name.startswith("secret_") and not of_kubernetes:
            log.warning("%s is unknown and ignored%s", place, _nearest(name, names))
    return found


def _nearest(name: str, names: Collection[str]) -> str:
    near = difflib.get_close_matches(name, names, n=1)
    return (
        f": did you mean {_PREFIX}{near[0].upper()}?" if near else ": `busway serve --help` lists the options"
    )


def _file() -> dict[str, str | None]:
    try:
        text = FILE.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise BadSettings("the file .env is not UTF-8: save it as UTF-8") from None
    except OSError as problem:
        raise BadSettings(f"the file .env cannot be read: {problem.strerror}") from None
    return dotenv_values(stream=io.StringIO(text))
