"""Settings from options, the environment and `.env`: what is wrong is named with its place."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from busway.domain.event import NewEvent
from busway.gateway import settings, variables
from busway.gateway.errors import BadSettings
from busway.gateway.traces import switch

from .conftest import Serve
from .service import clean_environment
from .test_command_line import busway

pytestmark = pytest.mark.one_database("settings")

KUBERNETES = {
    "BUSWAY_SERVICE_HOST": "10.0.0.1",
    "BUSWAY_SERVICE_PORT": "8000",
    "BUSWAY_SERVICE_PORT_HTTP": "8000",
    "BUSWAY_PORT": "tcp://10.0.0.1:8000",
    "BUSWAY_PORT_8000_TCP": "tcp://10.0.0.1:8000",
    "BUSWAY_PORT_8000_TCP_PROTO": "tcp",
    "BUSWAY_PORT_8000_TCP_PORT": "8000",
    "BUSWAY_PORT_8000_TCP_ADDR": "10.0.0.1",
    "BUSWAY_METRICS_SERVICE_HOST": "10.0.0.2",
    "BUSWAY_METRICS_PORT": "udp://10.0.0.2:53",
    "BUSWAY_METRICS_PORT_53_UDP_ADDR": "10.0.0.2",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project as current directory, without variables of ours."""
    for name in [name for name in os.environ if name.upper().startswith("BUSWAY_")]:
        monkeypatch.delenv(name)
    (tmp_path / "handlers").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


def logged(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_kubernetes_service_of_this_name_is_ignored_with_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name, value in KUBERNETES.items():
        monkeypatch.setenv(name, value)
    assert settings.load().port == 8000
    assert settings.load(port=9).port == 9
    caplog.clear()
    (folder / ".env").write_text("BUSWAY_PORT=8001\n")
    assert settings.load().port == 8001
    (line,) = logged(caplog)
    assert line.startswith("BUSWAY_PORT (environment) is ignored, because Kubernetes")


def test_a_gateway_starts_beside_such_a_service(make_service: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    service, clean = make_service(workers=1), clean_environment()
    monkeypatch.setattr("tests.e2e.service.clean_environment", lambda: {**clean, **KUBERNETES})
    service.start()
    assert service.stop() == 0
    lines = [json.loads(line)["event"] for line in service.log.read_text().splitlines()]
    assert len([line for line in lines if "Kubernetes" in line]) == 1
    assert not [line for line in lines if "unknown" in line]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("port", "x"), ("port", "65536"), ("pool", "fiber"), ("workers", "0"), ("threads", "many"),
        ("retention", "7 years"), ("max_event_bytes", "1MB"), ("drain_timeout", "-1"), ("reload", "maybe"),
        ("role", "worker"), ("role", "both"), ("broker_url", "nats://x"),
        ("database_url", "mysql://x"), ("handlers", "nowhere"), ("app_dir", "nowhere"),
        ("allow_origin", "app.example"), ("keep_alive", "0"), ("node_name", "a" * 256),
        ("secrets_file", "nowhere"), ("worker_user", "no such user"), ("worker_nice", "20"),
        ("worker_file_bytes", "9"), ("worker_open_files", "3"), ("worker_processes", "9"),
        ("audit_retention", "long"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named_with_its_place(
    folder: Path, monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    variable = f"BUSWAY_{name.upper()}"

    def said(**options: object) -> str:
        with pytest.raises(BadSettings) as raised:
            settings.load(**options)
        assert "\n" not in raised.value.detail
        return raised.value.detail

    (folder / ".env").write_text(f"{variable}={value}\n")
    assert said().startswith(f"{variable} (.env): ")
    monkeypatch.setenv(variable, value)
    assert said().startswith(f"{variable} (environment): ")
    assert said(**{name: value}).startswith(f"--{name.replace('_', '-')}: ")


@pytest.mark.parametrize("url", ["http://me:hidden@h", "nats://me:hidden@h?tls_ca=/nowhere"])
def test_a_broker_is_for_postgresql_and_its_secrets_are_not_shown(folder: Path, url: str) -> None:
    with pytest.raises(BadSettings, match=r"^--broker-url: a broker is for several nodes on one PostgreSQL"):
        settings.load(broker_url="nats://h")
    with pytest.raises(BadSettings, match=r"^--broker-url: the broker ") as raised:
        settings.load(broker_url=url, database_url="postgresql://h/d")
    assert "hidden" not in raised.value.detail
    with pytest.raises(BadSettings, match=r"^--database-url: the database must be") as raised:
        settings.load(database_url="mysql://me:hidden@h/d")
    assert "hidden" not in raised.value.detail


def test_an_address_that_cannot_be_used_is_named_with_its_place(folder: Path) -> None:
    (folder / ".env").write_text("BUSWAY_PORT=0\n")
    done = busway("serve", cwd=folder, BUSWAY_HOST="nowhere.invalid")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1), done.stderr
    assert "BUSWAY_HOST (environment), BUSWAY_PORT (.env): cannot listen on nowhere" in done.stderr
    done = busway("serve", "--host=0.0.0.0", cwd=folder)
    assert "--host: listening on 0.0.0.0 needs an API key" in done.stderr


def test_the_commands_on_the_database_name_the_place_too(folder: Path) -> None:
    (folder / ".env").write_text("BUSWAY_DATABASE_URL=mysql://x\n")
    for words, place in (((), "BUSWAY_DATABASE_URL (.env): "), (("--database-url=x",), "--database-url: ")):
        done = busway("keys", "list", *words, cwd=folder)
        assert (done.returncode, done.stderr.startswith(f"busway: {place}")) == (2, True), done.stderr


def test_empty_variables_count_as_unset(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    names = [f"BUSWAY_{name.upper()}" for name in settings.Settings.model_fields]
    (folder / ".env").write_text("BUSWAY_PORT=\nBUSWAY_POOL\nBUSWAY_THREADS=''\nBUSWAY_KEEP_ALIVE=9\n")
    for name in names:
        monkeypatch.setenv(name, "  " if name == "BUSWAY_ROLE" else "")
    assert settings.load().model_dump() == settings.Settings(keep_alive=9).model_dump()
    assert logged(caplog) == []


def test_an_unknown_variable_is_named_with_the_nearest_one(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / ".env").write_text("BUSWAY_WORKER=3\nOTHER=1\n")
    for name in ("BUSWAY_DATABASE", "BUSWAY_XYZ", "BUSWAY_URL", "BUSWAY_KEY"):
        monkeypatch.setenv(name, "x")
    assert settings.load().workers == settings.Settings().workers
    assert logged(caplog) == [
        "BUSWAY_WORKER (.env) is unknown and ignored: did you mean BUSWAY_WORKERS?",
        "BUSWAY_DATABASE (environment) is unknown and ignored: did you mean BUSWAY_DATABASE_URL?",
        "BUSWAY_XYZ (environment) is unknown and ignored: `busway serve --help` lists the options",
    ]


def test_the_option_wins_over_the_environment_and_that_over_dot_env(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / ".env").write_bytes(b"\xef\xbb\xbfBUSWAY_PORT=1\n# comment\nexport BUSWAY_POOL='thread'\n")
    assert (settings.load().port, settings.load().pool) == (1, "thread")
    monkeypatch.setenv("busway_port", "2")
    assert settings.load().port == 2
    assert settings.load(port=3).port == 3


def test_secrets_of_handlers_are_no_unknown_variables(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (folder / ".env").write_text("BUSWAY_SECRET_A=from the file\nBUSWAY_SECRET_B=b\nBUSWAY_WORKER_NICE=3\n")
    monkeypatch.setenv("BUSWAY_SECRET_A", "a")
    assert settings.load().worker_limits.nice == 3
    assert variables.handler_secrets() == {"BUSWAY_SECRET_A": "a", "BUSWAY_SECRET_B": "b"}
    assert logged(caplog) == []


def test_a_limit_of_processes_leaves_room_for_workers(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(BadSettings, match="must be at least 104, which workers need with 2 processes and 32"):
        settings.load(worker_processes=103, workers=2)
    assert settings.load(worker_processes=104, workers=2).worker_limits.processes == 104
    with pytest.raises(BadSettings, match="only a gateway that runs as root can"):
        settings.load(worker_user="nobody")


def bad_utf8(file: Path) -> None:
    file.write_bytes(b"BUSWAY_PORT=\xff\n")


def unreadable(file: Path) -> None:
    file.symlink_to("/proc/1/mem")  # not even root reads it from its beginning


@pytest.mark.parametrize("make", [bad_utf8, Path.mkdir, unreadable])
@pytest.mark.parametrize("words", [("serve", "--port=0"), ("keys", "list")])
def test_a_broken_dot_env_is_one_clear_line(tmp_path: Path, make: object, words: tuple[str, ...]) -> None:
    (tmp_path / "handlers").mkdir()
    make(tmp_path / ".env")  # type: ignore[operator]
    done = busway(*words, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("busway: the file .env ")
    assert done.stderr.count("\n") == 1


# -- traces

MODULES = """
import atexit, sys
atexit.register(lambda: open({file!r}, "w").write("\\n".join(sys.modules)))
from busway.gateway.start import main
main()
"""


def test_without_an_endpoint_nothing_of_opentelemetry_is_loaded(make_service: Serve, tmp_path: Path) -> None:
    head = "import sys\nfrom busway import handler\n"
    code = head + "@handler('m', pool={0!r})\ndef {0}(event): return [*sys.modules]\n"
    service = make_service()
    for pool in ("process", "thread"):
        service.write(f"{pool}_modules.py", code.format(pool))
    file = tmp_path / "modules"
    program = MODULES.format(file=str(file))
    arguments = service.command()[service.command().index("serve") :]
    service.launch = lambda: subprocess.Popen(  # type: ignore[method-assign]
        [sys.executable, "-c", program, *arguments],
        stdout=subprocess.PIPE,
        text=True,
        env=clean_environment(),
    )
    service.start()
    service.finished(service.publish("m")["seq"])
    loaded = [item["data"] for item in service.results()]
    assert len(loaded) == 2
    assert service.stop() == 0
    for modules in loaded:
        assert "busway" in modules
        assert [name for name in modules if name.startswith("opentelemetry")] == []
    gateway = file.read_text().split()
    ours = [name for name in gateway if name.startswith("busway.gateway.traces")]
    assert ours == ["busway.gateway.traces", "busway.gateway.traces.switch"]
    # FastAPI imports OpenTelemetry's interface, which makes nothing without the rest.
    heavy = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.proto", "google.protobuf")
    assert [name for name in gateway if name.startswith(heavy) or name == "requests"] == []


ENDPOINT = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


def test_serve_without_the_packages_says_what_to_install(tmp_path: Path) -> None:
    program = "import sys; sys.modules['opentelemetry'] = None; from busway.gateway.start import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "serve", "--port=0"],
        env={**clean_environment(), **ENDPOINT},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    (line,) = done.stderr.strip().splitlines()
    assert "OTEL_EXPORTER_OTLP_ENDPOINT" in line
    assert "pip install 'busway[otel]'" in line


def test_variables_of_traces() -> None:
    assert not switch.wanted({})
    assert not switch.wanted({**ENDPOINT, "OTEL_SDK_DISABLED": "true"})
    assert not switch.wanted({**ENDPOINT, "OTEL_TRACES_EXPORTER": "none"})
    assert switch.wanted({"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "https://collector.example/v1/traces"})
    switch.check({})
    switch.check({**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"})
    bad: list[dict[str, Any]] = [
        {"OTEL_EXPORTER_OTLP_ENDPOINT": "127.0.0.1:4318"},
        {**ENDPOINT, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
        {**ENDPOINT, "OTEL_BSP_MAX_QUEUE_SIZE": "many"},
    ]
    for environment in bad:
        with pytest.raises(BadSettings, match=[*environment][-1]):
            switch.check(environment)


@pytest.mark.parametrize(
    ("sampler", "argument", "least", "most"),
    [
        ("parentbased_always_on", "", 200, 200),
        ("parentbased_always_off", "", 0, 0),
        ("parentbased_traceidratio", "0.5", 40, 160),
    ],
)
def test_the_sampler_decides_which_traces_begin(
    monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str, least: int, most: int
) -> None:
    from busway.gateway.traces.tracer import Tracer

    for name, value in {
        **ENDPOINT,
        "OTEL_TRACES_SAMPLER": sampler,
        "OTEL_TRACES_SAMPLER_ARG": argument,
    }.items():
        monkeypatch.setenv(name, value)
    tracer = Tracer("a", lambda: 0)
    events = [
        NewEvent(id=str(n), source="/", type="t", time=0, accepted_at=0, correlationid="c")
        for n in range(200)
    ]
    for event in events:
        tracer.begin(event)
    sampled = [str(event.attributes["traceparent"]).endswith("-01") for event in events]
    assert least <= sum(sampled) <= most
    asyncio.run(tracer.close())
