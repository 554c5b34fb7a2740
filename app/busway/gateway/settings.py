"""The settings of `busway serve`: from options, `BUSWAY_…` variables and `.env`, in this order."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from busway.domain.event_fields import MAX_EVENT_BYTES
from busway.domain.jsonvalue import MAX_RESULT_BYTES
from busway.gateway.access.origins import read_origin
from busway.gateway.errors import BadSettings

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _duration(value: Any) -> Any:
    form = re.fullmatch(r"([0-9]+)([smhdw]?)", value.strip()) if isinstance(value, str) else None
    return int(form[1]) * _UNITS[form[2] or "s"] if form else value


def _switch(value: Any) -> Any:
    return False if value == "" else value  # an empty variable counts as unset


def _origins(value: Any) -> Any:
    texts = value if isinstance(value, list | tuple) else [value]
    found = [origin for text in texts for origin in str(text).replace(",", " ").split()]
    for origin in found:
        read_origin(origin)
    return tuple(found)


class _Stored(BaseSettings):
    """The settings of commands that use the database."""

    model_config = SettingsConfigDict(env_prefix="BUSWAY_", env_file=".env", frozen=True, extra="ignore")

    database_url: str = "sqlite:///busway.db"


class Settings(_Stored):
    """All settings. The command line builds them once and passes them on."""

    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    pool: Literal["process", "thread", "auto"] = "process"
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=1024)
    threads: int = Field(32, ge=1, le=1024)
    handlers: Path = Path("handlers")
    app_dir: Path = Path()
    max_event_bytes: int = Field(MAX_EVENT_BYTES, ge=1, le=1_073_741_824)
    max_body_bytes: int = Field(33_554_432, ge=1, le=1_073_741_824)
    max_result_bytes: int = Field(MAX_RESULT_BYTES, ge=1, le=1_073_741_824)
    max_bodies_bytes: int = Field(268_435_456, ge=1, le=1_099_511_627_776)
    max_answers_bytes: int = Field(134_217_728, ge=1, le=1_099_511_627_776)
    drain_timeout: float = Field(30, ge=0, le=86_400)
    keep_alive: int = Field(75, ge=1, le=86_400)
    broker_url: str = ""
    role: str = "all"
    retention: Annotated[int, BeforeValidator(_duration)] = Field(604_800, ge=1, le=3_153_600_000)
    allow_origin: Annotated[tuple[str, ...], NoDecode, BeforeValidator(_origins)] = ()
    reload: Annotated[bool, BeforeValidator(_switch)] = False

    @property
    def database(self) -> Path:
        """The SQLite file that `database_url` names."""
        return Path(self.database_url.removeprefix("sqlite:///"))


_NOT_UTF8 = "the file .env is not UTF-8: save it as UTF-8"
_LATER = {
    "broker_url": ("several nodes are not supported yet: remove --broker-url", {""}),
    "role": ("roles are not supported yet: remove --role or use 'all'", {"all"}),
}


def load(**options: Any) -> Settings:
    """Build the settings. For options that are None, the environment applies, then `.env`.

    Raises:
        BadSettings: a value is invalid. The message is one line and names it.
    """
    given = {name: value for name, value in options.items() if value not in (None, [])}
    try:
        settings = Settings(**given)
    except ValidationError as problem:
        first = problem.errors()[0]
        option = str(first["loc"][0]).replace("_", "-")
        variable = f"BUSWAY_{option.replace('-', '_').upper()}"
        detail = f"--{option} (or {variable}): {first['msg']}, not {first['input']!r}"
        raise BadSettings(detail) from None
    except UnicodeDecodeError:
        raise BadSettings(_NOT_UTF8) from None
    _check(settings)
    return settings


def database(url: str | None) -> Path:
    """Return the SQLite file from the option, else the environment, else `.env`.

    Raises:
        BadSettings: the URL is not `sqlite:///FILE`.
    """
    try:
        found = url or _Stored().database_url
    except UnicodeDecodeError:
        raise BadSettings(_NOT_UTF8) from None
    return _file(found)


def _file(url: str) -> Path:
    path = url.removeprefix("sqlite:///")
    if path == url or path in {"", ".", ":memory:"}:
        raise BadSettings(f"--database-url must be sqlite:///FILE, not {url!r}")
    return Path(path)


def _check(settings: Settings) -> None:
    for name, (detail, harmless) in _LATER.items():
        if getattr(settings, name).lower() not in harmless:
            raise BadSettings(detail)
    if settings.database_url.startswith("postgres"):
        raise BadSettings("PostgreSQL is not supported yet: use --database-url sqlite:///FILE")
    _file(settings.database_url)
    if not settings.handlers.is_dir():
        raise BadSettings(
            f"there is no handlers folder {str(settings.handlers)!r}: create it or set --handlers"
        )
    if not settings.app_dir.is_dir():
        raise BadSettings(
            f"there is no folder {str(settings.app_dir)!r}: set --app-dir to the root of your project"
        )
    if not os.access(settings.database.parent, os.W_OK):
        raise BadSettings(
            f"cannot write to the database folder {str(settings.database.parent)!r}: change its permissions"
        )
