"""The settings of `busway serve`: from options, `BUSWAY_…` variables and `.env`, in this order."""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainValidator,
    PrivateAttr,
    ValidationError,
)

from busway.domain.addresses import AllowedTargets, read_networks
from busway.domain.event_fields import MAX_DEPTH, MAX_EVENT_BYTES
from busway.domain.jsonvalue import MAX_RESULT_BYTES
from busway.gateway import confinement, variables
from busway.gateway.access import keysfile
from busway.gateway.access.origins import read_origin
from busway.gateway.access.proxies import TrustedProxies
from busway.gateway.door.deadlines import TIMES, Times
from busway.gateway.errors import BadSettings
from busway.gateway.executors.port import WorkerLimits
from busway.gateway.limits import Limits, Policy, read_rate
from busway.gateway.nodes.notifications.nats_url import Broker, read_broker
from busway.gateway.store.port.database import is_postgres, sqlite_path
from busway.gateway.traces import switch
from busway.gateway.variables import Variable

if TYPE_CHECKING:
    from busway.gateway.access.issuer import Issuer

_DEFAULT_DATABASE = "sqlite:///busway.db"
_LONGEST_NAME = 255
_DEFAULT_PLACE = "--database-url (default)"

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def _duration(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    form = re.fullmatch(r"([0-9]+)([smhdw]?)", value.strip())
    if form is None:
        raise ValueError("must be a whole number with s, m, h, d or w, such as 7d")
    return int(form[1]) * _UNITS[form[2] or "s"]


def _origins(value: Any) -> Any:
    texts = value if isinstance(value, list | tuple) else [value]
    found = [origin for text in texts for origin in str(text).replace(",", " ").split()]
    for origin in found:
        read_origin(origin)
    return tuple(found)


def _targets(value: Any) -> Any:
    texts = value if isinstance(value, list | tuple) else [value]
    found = [network for text in texts for network in str(text).replace(",", " ").split()]
    read_networks(found)
    return tuple(found)


def _proxies(value: Any) -> Any:
    texts = value if isinstance(value, list | tuple) else [value]
    found = [proxy for text in texts for proxy in str(text).replace(",", " ").split()]
    TrustedProxies(found)
    return tuple(found)


def _words(value: Any) -> Any:
    texts = value if isinstance(value, list | tuple) else [value]
    return tuple(word for text in texts for word in str(text).replace(",", " ").split())


def _rate(value: Any) -> str:
    read_rate(str(value).strip())
    return str(value).strip()


def _name(value: Any) -> str:
    name = str(value).strip()
    if not name.isprintable() or not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"must be 1 to {_LONGEST_NAME} printable characters")
    return name


def _mode(value: Any) -> Any:
    if not re.fullmatch(r"0?[0-7]{3}", str(value)):
        raise ValueError("must be three octal digits, such as 660")
    return int(str(value), 8)


def _path(value: Any) -> Path:
    return Path(value)


# pydantic's own validators refuse names that are not UTF-8.
_Text = Annotated[str, PlainValidator(str)]
_Path = Annotated[Path, PlainValidator(_path)]
_Words = Annotated[tuple[str, ...], BeforeValidator(_words)]
_Rate = Annotated[str, PlainValidator(_rate)]
_Networks = Annotated[tuple[str, ...], BeforeValidator(_targets)]
_MOST = 1_000_000_000


class Settings(BaseModel):
    """All settings. The command line builds them once and passes them on."""

    model_config = ConfigDict(frozen=True)

    database_url: _Text = _DEFAULT_DATABASE
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    uds: _Path | None = None
    uds_mode: Annotated[int, BeforeValidator(_mode)] = Field(0o600, ge=0, le=0o777)
    tls_cert: _Path | None = None
    tls_key: _Path | None = None
    pool: Literal["process", "thread", "auto"] = "process"
    workers: int = Field(default_factory=lambda: os.cpu_count() or 1, ge=1, le=1024)
    threads: int = Field(32, ge=1, le=1024)
    handlers: _Path = Path("handlers")
    app_dir: _Path = Path()
    max_event_bytes: int = Field(MAX_EVENT_BYTES, ge=1, le=1_073_741_824)
    max_body_bytes: int = Field(33_554_432, ge=1, le=1_073_741_824)
    max_result_bytes: int = Field(MAX_RESULT_BYTES, ge=1, le=1_073_741_824)
    max_bodies_bytes: int = Field(268_435_456, ge=1, le=1_099_511_627_776)
    max_answers_bytes: int = Field(134_217_728, ge=1, le=1_099_511_627_776)
    max_depth: int = Field(MAX_DEPTH, ge=1, le=10_000)
    drain_timeout: float = Field(30, ge=0, le=86_400)
    keep_alive: int = Field(75, ge=1, le=86_400)
    head_timeout: float = Field(TIMES.head, gt=0, le=86_400)
    body_timeout: float = Field(TIMES.body, gt=0, le=86_400)
    min_body_rate: int = Field(TIMES.least, ge=0, le=_MOST)
    upload_timeout: float = Field(TIMES.upload, gt=0, le=86_400)
    stall_timeout: float = Field(TIMES.stall, gt=0, le=86_400)
    key_rate: _Rate = "none"
    key_connections: int = Field(10_000, ge=0, le=_MOST)
    key_subscriptions: int = Field(100_000, ge=0, le=_MOST)
    key_bytes: int = Field(134_217_728, ge=0, le=1_099_511_627_776)
    address_rate: _Rate = "none"
    address_connections: int = Field(1_000, ge=0, le=_MOST)
    address_subscriptions: int = Field(10_000, ge=0, le=_MOST)
    address_bytes: int = Field(67_108_864, ge=0, le=1_099_511_627_776)
    unlimited_address: _Networks = ("127.0.0.0/8", "::1/128")
    node_name: Annotated[str, PlainValidator(_name)] = Field(default_factory=socket.gethostname)
    broker_url: _Text = ""
    role: Literal["all", "gateway", "worker"] = "all"
    retention: Annotated[int, BeforeValidator(_duration)] = Field(604_800, ge=1, le=3_153_600_000)
    audit_retention: Annotated[int, BeforeValidator(_duration)] = Field(7_776_000, ge=1, le=3_153_600_000)
    allow_origin: Annotated[tuple[str, ...], BeforeValidator(_origins)] = ()
    trusted_proxies: Annotated[tuple[str, ...], BeforeValidator(_proxies)] = ()
    allow_target: _Networks = ()
    max_deliveries: int = Field(100, ge=1, le=10_000)
    keys_file: _Path | None = None
    jwt_issuer: _Text = ""
    jwt_audience: _Words = ()
    jwt_jwks_url: _Text = ""
    jwt_key_file: _Path | None = None
    jwt_secret_file: _Path | None = None
    jwt_algorithm: _Words = ()
    jwt_scope_claim: _Words = ("scope", "scp")
    jwt_types_claim: str = Field("busway_types", min_length=1)
    jwt_leeway: int = Field(10, ge=0, le=600)
    reload: bool = False
    secrets_file: _Path | None = None
    worker_user: str = ""
    worker_nice: int = Field(0, ge=0, le=19)
    worker_file_bytes: int | None = Field(None, ge=4_194_304, le=1 << 50)
    worker_open_files: int | None = Field(None, ge=64, le=1 << 30)
    worker_processes: int | None = Field(None, ge=1, le=1 << 22)
    log_format: Literal["auto", "text", "json"] = "auto"
    log_level: Literal["debug", "info", "warning", "error"] = "info"

    _places: dict[str, str] = PrivateAttr(default_factory=dict)

    @property
    def has_workers(self) -> bool:
        """Whether this node runs handlers."""
        return self.role != "gateway"

    @property
    def serves_clients(self) -> bool:
        """Whether this node answers more than health checks."""
        return self.role != "worker"

    @property
    def traces(self) -> bool:
        """Whether the environment asks for traces."""
        return switch.wanted()

    @property
    def targets(self) -> AllowedTargets:
        """What decides where events may be sent."""
        return AllowedTargets(read_networks(self.allow_target))

    @property
    def issuer(self) -> Issuer | None:
        """Who signs the tokens that are accepted.

        Raises:
            IssuerError: as from `read_issuer`.
        """
        if not self.jwt_issuer:
            return None
        from busway.gateway.access.issuer import read_issuer  # noqa: PLC0415 - PyJWT is loaded if it is used
        from busway.gateway.access.tokens import TokenRules  # noqa: PLC0415 - as above

        rules = TokenRules(
            issuer=self.jwt_issuer,
            audience=self.jwt_audience,
            algorithms=frozenset(self.jwt_algorithm),
            scope_claims=self.jwt_scope_claim,
            types_claim=self.jwt_types_claim,
            leeway=self.jwt_leeway,
        )
        return read_issuer(
            rules,
            jwks_url=self.jwt_jwks_url,
            key_file=self.jwt_key_file,
            secret_file=self.jwt_secret_file,
        )

    @property
    def times(self) -> Times:
        """How long clients may take."""
        return Times(
            self.head_timeout, self.body_timeout, self.min_body_rate, self.upload_timeout, self.stall_timeout
        )

    def limits(self) -> Limits:
        """Return the limits of each client. Nothing is used yet."""
        return Limits(
            Policy(read_rate(self.key_rate), self.key_connections, self.key_subscriptions, self.key_bytes),
            Policy(
                read_rate(self.address_rate),
                self.address_connections,
                self.address_subscriptions,
                self.address_bytes,
            ),
            read_networks(self.unlimited_address),
        )

    @property
    def broker(self) -> Broker | None:
        """What `broker_url` names.

        Raises:
            ValueError: as from `read_broker`.
        """
        return read_broker(self.broker_url) if self.broker_url else None

    @property
    def worker_limits(self) -> WorkerLimits:
        """The limits of the processes that run handler code."""
        return WorkerLimits(
            user=self.worker_user,
            nice=self.worker_nice,
            file_bytes=self.worker_file_bytes,
            open_files=self.worker_open_files,
            processes=self.worker_processes,
        )

    def come_from(self, chosen: Mapping[str, Variable]) -> None:
        """Record where the values stand."""
        self._places = {name: variable.place for name, variable in chosen.items()}

    def place(self, *names: str) -> str:
        """Return which options and variables set these, for messages: `--port: `. Empty if none did."""
        found = [self._places[name] for name in names if name in self._places]
        return f"{', '.join(found)}: " if found else ""


def load(**options: Any) -> Settings:
    """Build the settings. For options that are None, the environment applies, then `.env`.

    Raises:
        BadSettings: a value is invalid. The message is one line and names the option or the variable.
    """
    chosen = variables.settings(Settings.model_fields)
    for name, value in options.items():
        if value not in (None, []):
            chosen[name] = Variable(name, value, _option(name))
    try:
        settings = Settings(**{name: variable.value for name, variable in chosen.items()})
    except ValidationError as problem:
        first = problem.errors()[0]
        name, why = str(first["loc"][0]), first["msg"].removeprefix("Value error, ")
        raise BadSettings(f"{chosen[name].place}: {why}, not {first['input']!r}") from None
    settings.come_from(chosen)
    _check(settings, chosen)
    return settings


def database_url(url: str | None) -> str:
    """Return the URL of the database from the option, else the environment, else `.env`.

    Raises:
        BadSettings: the URL is neither `sqlite:///FILE` nor `postgresql://…`.
    """
    return _database_url(_database_variable(url))


def database_place(url: str | None) -> str:
    """Return which option or variable chooses the database, for messages: `--database-url: `."""
    return f"{_database_variable(url).place}: "


@contextmanager
def naming(place: str) -> Iterator[None]:
    """Let errors about a database begin with the option or variable that chose it."""
    try:
        yield
    except BadSettings as problem:
        raise BadSettings((place or f"{_DEFAULT_PLACE}: ") + problem.detail) from None


def _database_variable(url: str | None) -> Variable:
    if url:
        return Variable("database_url", url, "--database-url")
    found = {variable.name: variable for variable in variables.read()}
    return found.get("database_url", Variable("database_url", _DEFAULT_DATABASE, _DEFAULT_PLACE))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _database_url(variable: Variable) -> str:
    url = str(variable.value)
    path = sqlite_path(url)
    if is_postgres(url):
        return url
    if path == url or path in {"", ".", ":memory:"}:
        raise BadSettings(
            f"{variable.place}: the database must be sqlite:///FILE or postgresql://USER@HOST/DATABASE, "
            f"not {re.sub('//[^/]*@', '//…@', url)!r}"
        )
    return url


def _check(settings: Settings, chosen: Mapping[str, Variable]) -> None:
    place = settings.place
    if "database_url" in chosen:
        _database_url(chosen["database_url"])
    switch.check()
    _check_broker(settings)
    _check_issuer(settings, chosen)
    _check_keys_file(settings)
    if settings.tls_key is not None and settings.tls_cert is None:
        raise BadSettings(f"{place('tls_key')}the key needs its certificate: set --tls-cert")
    if settings.role != "all" and not is_postgres(settings.database_url):
        raise BadSettings(
            place("role") + "roles are for several nodes on one PostgreSQL database, and SQLite has one: "
            "remove it, or set --database-url postgresql://…"
        )
    if not settings.has_workers:
        return
    if not _is_folder(settings.handlers):
        raise BadSettings(
            f"{place('handlers')}there is no handlers folder {str(settings.handlers)!r}: "
            "`busway init` writes one with a first handler, --handlers names another"
        )
    if not _is_folder(settings.app_dir):
        raise BadSettings(
            f"{place('app_dir')}there is no folder {str(settings.app_dir)!r}: "
            "set --app-dir to the root of your project"
        )
    if settings.secrets_file is not None and not settings.secrets_file.exists():
        raise BadSettings(
            f"{place('secrets_file')}there is no file or folder {str(settings.secrets_file)!r}: create it, "
            "or choose another --secrets-file"
        )
    if fault := confinement.fault(settings.worker_limits, settings.workers, settings.threads):
        raise BadSettings(place(fault[0]) + fault[1])


def _check_broker(settings: Settings) -> None:
    if settings.broker_url and not is_postgres(settings.database_url):
        raise BadSettings(
            settings.place("broker_url") + "a broker is for several nodes on one PostgreSQL database, and "
            "SQLite has one: remove it, or set --database-url postgresql://…"
        )
    try:
        settings.broker  # noqa: B018 - it reads the files that the URL names
    except ValueError as problem:
        raise BadSettings(f"{settings.place('broker_url')}the broker {problem}") from None


def _check_issuer(settings: Settings, chosen: Mapping[str, Variable]) -> None:
    about = [name for name in chosen if name.startswith("jwt_") and name != "jwt_issuer"]
    if about and not settings.jwt_issuer:
        raise BadSettings(f"{settings.place(about[0])}tokens need an issuer: set --jwt-issuer, or remove it")
    try:
        settings.issuer  # noqa: B018 - it reads the files that the settings name
    except ValueError as problem:
        name = str(getattr(problem, "setting", "jwt_issuer"))
        raise BadSettings(f"{settings.place(name) or f'{_option(name)}: '}{problem}") from None


def _check_keys_file(settings: Settings) -> None:
    if settings.keys_file is None:
        return
    try:
        keysfile.read(settings.keys_file)
    except ValueError as problem:
        raise BadSettings(
            f"{settings.place('keys_file')}the keys file {str(settings.keys_file)!r}: {problem}"
        ) from None


def _is_folder(path: Path) -> bool:
    try:
        return path.is_dir()
    except OSError:  # such as a folder above it that may not be entered
        return False
