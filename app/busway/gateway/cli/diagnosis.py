"""What `busway doctor` checks. Nothing is changed: no database is created or upgraded."""

from __future__ import annotations

import errno
import json
import os
import re
import resource
import shlex
import shutil
import socket
import stat
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from busway.gateway import variables
from busway.gateway.cli.call import Caller
from busway.gateway.cli.output import flat, size
from busway.gateway.errors import BadSettings, BuswayError
from busway.gateway.store.databases import choose
from busway.gateway.store.port.database import Health, is_postgres

if TYPE_CHECKING:
    from busway.gateway.settings import Settings

OK, WARNING, PROBLEM = "ok", "warning", "problem"
PATIENCE = 60.0  # seconds for the import of all handler code
ANSWERS = 3.0  # seconds for an address that may have a gateway or a broker
SYNCS = 40
SLOW_SYNC, SLOW_TRIP, NO_SYNC = 0.010, 0.005, 0.000_02  # seconds
LITTLE_SPACE, NO_SPACE = 1 << 30, 100 << 20  # bytes
DESCRIPTORS = 4096  # of one process: each connection and each worker takes some
FEWEST_DESCRIPTORS = 128  # with fewer a gateway hardly serves anybody
PROCESSES = 256  # and threads, besides those of workers
MEMORY, WORKER_MEMORY = 512 << 20, 64 << 20  # bytes for the gateway and for each worker, without handlers
CLOCK = 2.0  # seconds that two clocks may differ
OLDEST_YEAR = 2025
_SECRET = re.compile(rb"(?i)secret_|password|bw_\d|://[^/\s:]*:[^/\s@]+@")
_ELSEWHERE = "make it usable for this user, or name another one with --database-url"


class Check(NamedTuple):
    """One finding.

    Attributes:
        name: what was checked.
        state: `ok`, `warning` or `problem`.
        found: what was found, one line.
        advice: what to do, empty if nothing.
    """

    name: str
    state: str
    found: str
    advice: str = ""


def checks(settings: Settings, url: str, key: str | None) -> Iterator[tuple[str, Iterator[Check]]]:
    """Yield all checks of a machine with these settings, by what they look at.

    Args:
        settings: those of `busway serve`.
        url: where a gateway may run.
        key: for this gateway.
    """
    pool = f"{settings.pool} pool, " if settings.has_workers else ""
    found = Check("settings", OK, f"role {settings.role}, {pool}listens on {settings.host}:{settings.port}")
    yield "the settings", iter([found])
    yield "files with secrets", _secrets(settings)
    yield "the handlers folder", _handlers(settings)
    yield "the database and its disk", _database(settings)
    yield "the broker", _broker(settings)
    yield "limits", _limits(settings)
    yield "the gateway and the clock", _gateway(settings, url, key)


def _secrets(settings: Settings) -> Iterator[Check]:
    """Check who may read files with secrets, and who may write those with keys."""
    secret = stat.S_IROTH | stat.S_IWOTH
    files = {
        "--tls-key": (settings.tls_key, secret),
        "--jwt-secret-file": (settings.jwt_secret_file, secret),
        "--secrets-file": (settings.secrets_file, secret),
        "--keys-file": (settings.keys_file, stat.S_IWOTH),
        "--jwt-key-file": (settings.jwt_key_file, stat.S_IWOTH),
        "the settings": (variables.FILE if _has_secret(variables.FILE) else None, secret),
    }
    for what, (file, unwanted) in files.items():
        with suppress(OSError):
            if file is None or not (open_to := stat.S_IMODE(file.stat().st_mode) & unwanted):
                continue
            may = "change" if open_to & stat.S_IWOTH else "read"
            mode = "o-rwx" if unwanted == secret else "o-w"
            found = f"every user of this machine may {may} it ({what})"
            yield Check(f"file {file}", WARNING, found, f"chmod {mode} {shlex.quote(str(file))}")


def _has_secret(file: Path) -> bool:
    with suppress(OSError):
        return _SECRET.search(file.read_bytes()) is not None
    return False


def _handlers(settings: Settings) -> Iterator[Check]:
    """Import the folder in a process of its own, as workers do."""
    if not settings.has_workers:
        yield Check("handlers", OK, "this role runs none")
        return
    command = [sys.executable, "-m", "busway.gateway.cli.folder_report"]
    command += [str(settings.handlers.absolute()), str(settings.app_dir.absolute())]
    try:
        done = subprocess.run(command, capture_output=True, timeout=PATIENCE, check=False)  # noqa: S603 - itself
        found = json.loads(done.stdout.splitlines()[-1])
    except OSError as problem:
        advice = "this user must be able to start it, and enough processes (`ulimit -u`)"
        found = f"{sys.executable} cannot be started: {problem.strerror}"
        yield Check("handlers", PROBLEM, found, advice)
        return
    except subprocess.TimeoutExpired:
        advice = "handler files must not wait or serve when they are imported"
        yield Check("handlers", PROBLEM, f"the import takes longer than {PATIENCE:.0f} s", advice)
        return
    except (IndexError, ValueError):
        last = flat(done.stderr.decode(errors="replace").strip().rpartition("\n")[2])
        yield Check(
            "handlers", PROBLEM, f"the import ends the process: {last}", "import the files one by one"
        )
        return
    for file, error in found["errors"].items():
        yield Check(f"file {file}", PROBLEM, flat(error), f"python {settings.handlers / file} shows where")
    for file, note in found["notes"]:
        yield Check(f"file {file}", WARNING, flat(note))
    if found["functions"]:
        counted = ", ".join(f"{name}: {found[name]}" for name in ("files", "functions", "handlers"))
        yield Check("handlers", OK, f"{settings.handlers} has {counted}")
    elif not found["errors"]:
        advice = "`busway init` writes a first handler"
        yield Check("handlers", WARNING, f"no functions in {settings.handlers}", advice)


def _database(settings: Settings) -> Iterator[Check]:
    database = choose(settings.database_url)
    try:
        since = time.time()
        health = database.health()
    except BadSettings as problem:
        server = is_postgres(settings.database_url)
        advice = "see that the server runs and that --database-url names it" if server else _ELSEWHERE
        yield Check("database", PROBLEM, f"{settings.place('database_url')}{problem.detail}", advice)
        return
    except BuswayError as problem:
        yield Check("database", PROBLEM, problem.detail, "see that the server runs and can be reached")
        return
    if health.revision is None:
        yield Check("database", OK, f"{database.shown} does not exist yet: `busway serve` creates it")
    elif health.revision < database.revision:
        found = f"{database.shown} has schema {health.revision}, this release has {database.revision}"
        if is_postgres(settings.database_url):
            yield Check("database", PROBLEM, found, "run `busway migrate`")
        else:
            yield Check("database", WARNING, found, "`busway serve` upgrades it: run `busway backup` before")
    else:
        used = f", in use by {health.user}" if health.user else ""
        yield Check("database", OK, f"{database.shown}, {size(database.sizes().total)}{used}")
    if is_postgres(settings.database_url):
        yield from _server(health, since)
    else:
        yield from _disk(Path(database.shown).parent)
        yield from _newest(Path(database.shown))


def _server(health: Health, since: float) -> Iterator[Check]:
    """Check a database server, which was asked after `since`."""
    for name, value in health.unsafe.items():
        advice = "a crash of the server can lose events that were acknowledged: switch it on"
        yield Check(name, WARNING, f"it is {value} on the database server", advice)
    trip = f"{health.trip * 1000:.1f} ms for one answer of the server"
    slow = health.trip > SLOW_TRIP
    advice = "an event takes several: run the gateway closer to the server" if slow else ""
    yield Check("round trip", WARNING if slow else OK, trip, advice)
    yield _clock("database server", health.clock, since)


def _disk(folder: Path) -> Iterator[Check]:
    """Measure how long the disk takes to store 4 KiB, and how much is free."""
    with suppress(OSError):
        free = shutil.disk_usage(folder).free
        state = PROBLEM if free < NO_SPACE else WARNING if free < LITTLE_SPACE else OK
        advice = "" if state == OK else "make room, or shorten --retention"
        yield Check("disk space", state, f"{size(free)} free", advice)
    try:
        taken = sync_time(folder)
    except OSError as problem:
        full = problem.errno == errno.ENOSPC
        advice = f"{folder} must be writable: the log of the database is written beside it"
        advice = "make room on the disk, or name another one with --database-url" if full else advice
        yield Check("disk sync", PROBLEM, flat(str(problem.strerror)), advice)
        return
    found = f"{taken * 1000:.2f} ms to store 4 KiB safely"
    if taken > SLOW_SYNC:
        yield Check("disk sync", WARNING, found, "each commit waits for it: use a local disk, best an SSD")
    elif taken < NO_SYNC:
        advice = "no disk is so fast: after a power failure, acknowledged events may be missing"
        yield Check("disk sync", WARNING, found, advice)
    else:
        yield Check("disk sync", OK, found)


def _newest(database: Path) -> Iterator[Check]:
    """Check that nothing was written later than now: the clock would have been set back since."""
    for file in (database, database.with_name(f"{database.name}-wal")):
        with suppress(OSError):
            ahead = file.stat().st_mtime - time.time()
            if ahead > CLOCK:
                found = f"{file} was written {ahead:.0f} s after the time that it is now"
                advice = "set the clock: runs wait until their time comes (chrony keeps it right)"
                yield Check("time of the database", WARNING, found, advice)
                return


def sync_time(folder: Path) -> float:
    """Return the median seconds of writing 4 KiB and waiting until they are on the disk of a folder.

    Raises:
        OSError: the folder cannot be written.
    """
    page, taken = os.urandom(4096), []
    with tempfile.TemporaryFile(dir=folder, buffering=0) as file:
        for _ in range(SYNCS):
            began = time.perf_counter()
            file.write(page)
            os.fdatasync(file.fileno())
            taken.append(time.perf_counter() - began)
    return statistics.median(taken)


def _broker(settings: Settings) -> Iterator[Check]:
    broker = settings.broker
    for server in broker.servers if broker else ():
        try:
            with socket.create_connection((server.host, server.port), ANSWERS) as connection:
                greeting = connection.recv(5)
        except OSError as problem:
            advice = "start it or correct --broker-url: nodes notify each other over PostgreSQL meanwhile"
            yield Check("broker", WARNING, f"{server.url}: {problem.strerror or problem}", advice)
        else:
            nats = greeting == b"INFO "
            advice = "" if nats else "--broker-url names another kind of server"
            found = f"{server.url} answers" + ("" if nats else ", but it is no NATS server")
            yield Check("broker", OK if nats else PROBLEM, found, advice)


def _limits(settings: Settings) -> Iterator[Check]:
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    few = files != resource.RLIM_INFINITY and files < DESCRIPTORS
    none = few and files < FEWEST_DESCRIPTORS
    found = f"{files if files != resource.RLIM_INFINITY else 'any number of'} open files"
    advice = "each connection takes one: raise it with `ulimit -n` or LimitNOFILE=" if few else ""
    yield Check("open files", PROBLEM if none else WARNING if few else OK, found, advice)
    wanted = settings.workers if settings.has_workers else 0
    yield _processes(settings.threads if settings.has_workers else 0, wanted)
    yield _memory(wanted)
    available = cpus()
    found = f"{available:g} CPUs, {wanted} workers"
    many = wanted > 2 * max(available, 1)
    advice = "workers that compute take turns: fewer need less memory (--workers)" if many else ""
    yield Check("CPUs", WARNING if many else OK, found, advice)


def _processes(threads: int, workers: int) -> Check:
    """Check how many processes and threads there may be: of the control group, and of the user but root."""
    limits = [_group("pids.max")]
    if os.geteuid():
        soft = resource.getrlimit(resource.RLIMIT_NPROC)[0]
        limits.append(None if soft == resource.RLIM_INFINITY else soft)
    most = min((limit for limit in limits if limit is not None), default=None)
    if most is None:
        return Check("processes", OK, "any number of processes and threads")
    few = most < PROCESSES + threads + 4 * workers
    advice = "workers have threads: raise it with `ulimit -u`, TasksMax= or --pids-limit" if few else ""
    return Check("processes", WARNING if few else OK, f"{most} processes and threads", advice)


def _memory(workers: int) -> Check:
    """Check how much memory there may be: of the machine, and of the control group."""
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    most = min(machine, _group("memory.max") or machine)
    little = most < MEMORY + workers * WORKER_MEMORY
    advice = "fewer workers need less (--workers); handlers come on top" if little else ""
    return Check("memory", WARNING if little else OK, f"{size(most)}, {workers} workers", advice)


def _group(name: str) -> int | None:
    """Return a limit of the control group of this process, None if it has none."""
    try:
        return int(Path("/sys/fs/cgroup", name).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None


def cpus() -> float:
    """Return how many CPUs this process may use: by affinity, and by the quota of its control group."""
    allowed = float(len(os.sched_getaffinity(0)))
    with suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text(encoding="ascii").split()
        allowed = min(allowed, int(quota) / int(period))
    return allowed


def _clock(whose: str, other: float, since: float) -> Check:
    """Compare this clock with another one, which was read after `since`: a busy machine answers late."""
    ahead, behind = since - other, other - time.time()
    if max(ahead, behind) > CLOCK:
        apart = f"{ahead:.0f} s ahead of" if ahead > behind else f"{behind:.0f} s behind"
        found = f"this clock is {apart} that of the {whose}"
        return Check("clock", WARNING, found, "let a time service such as chrony set both")
    return Check("clock", OK, f"equal to that of the {whose}")


def _gateway(settings: Settings, url: str, key: str | None) -> Iterator[Check]:
    """Ask a gateway that runs, or see that one can listen."""
    since = time.time()
    try:
        with Caller(url, key, ANSWERS) as caller:
            answer = caller.send("GET", "/readyz")
    except BuswayError:
        yield _port(settings)
        if not is_postgres(settings.database_url):
            wrong = datetime.now(UTC).year < OLDEST_YEAR
            advice = "set it: events get their time from it" if wrong else ""
            yield Check("clock", PROBLEM if wrong else OK, f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", advice)
        return
    told = _problem(answer)
    if answer.is_success:
        yield Check("gateway", OK, f"{url} is ready")
    else:
        detail = flat(str(told.get("detail", answer.status_code)))
        yield Check("gateway", PROBLEM, f"{url} is not ready: {detail}", "see its log")
    for trouble in told.get("trouble", []):
        yield Check("gateway", WARNING, flat(str(trouble)), "`busway status` shows more")
    if (date := answer.headers.get("date")) is not None:
        with suppress(ValueError):
            yield _clock("gateway", parsedate_to_datetime(date).timestamp(), since)


def _problem(answer: Any) -> dict[str, Any]:
    try:
        found = answer.json()
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _port(settings: Settings) -> Check:
    address = f"{settings.host}:{settings.port}"
    try:
        with socket.create_server((settings.host, settings.port), reuse_port=False):
            return Check("address", OK, f"{address} is free, no gateway runs there")
    except OSError as problem:
        advice = "stop what listens there, or choose another --port"
        return Check("address", PROBLEM, f"{address}: {problem.strerror or problem}", advice)
