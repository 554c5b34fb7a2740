"""`busway init` and `busway invoke`: a handlers folder from nothing, and one handler in the terminal."""

from __future__ import annotations

import json
import os
import pty
import sys
from pathlib import Path

import pytest

from tests import forked
from tests.testing.test_how_to import run_pytest

from .service import PATIENCE, Service, clean_environment
from .test_command_line import busway

pytestmark = pytest.mark.one_database("runs handlers without a gateway")

HANDLERS = {
    "orders.py": '''
import logging
from dataclasses import dataclass
from busway import Event, Fail, Retry, handler

MADE = []

def setup(): MADE.append("setup")
def teardown(): print("torn down")

@handler("order.*", max_attempts=2, filter={"not": {"exact": {"subject": "x"}}})
def price(event, ctx):
    """Prices an order."""
    ctx.log.info("pricing %s", event.type)
    logging.getLogger("shop").info("of the shop")
    ctx.progress(0.5, "half")
    yield {"setup": MADE}
    ctx.publish("order.priced", {"of": event.type}, subject="s")
    return {"total": event.data["total"], "subject": event.subject, "attempt": ctx.attempt}

@handler("**")
async def later(event):
    return [event.type, event.data]

@handler("count")
async def count(event, ctx):
    for n in range(2):
        yield n

@handler("order.*")
def gives_up(event): raise Fail("there is no such book")

@handler("order.*")
def waits(event): raise Retry(after=7)

@handler("order.*")
def leaves(event): raise SystemExit("bye")

@handler("order.*")
def asks(event):
    breakpoint()
    return input("name? ")

def plain(event): return event.data

@handler("secretive")
def secretive(event, ctx):
    import os
    return [ctx.secrets["TOKEN"], ctx.secrets["OTHER"], "BUSWAY_SECRET_OTHER" in os.environ]

@handler("order.*")
async def awaits(event): raise ValueError("async")

@handler("order.*")
async def streams(event):
    yield 1
    raise ValueError("streams")

@dataclass
class Order:
    n: int

@handler("order.*")
def typed(event: Event[Order]): return {"n": event.data.n, "c": 1j}
''',
    "broken.py": "import nothing_of_this_name\n",
}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("invoke")
    (folder / "handlers").mkdir()
    for name, text in HANDLERS.items():
        (folder / "handlers" / name).write_text(text, encoding="utf-8")
    return folder


def test_it_prints_what_the_handler_produces(project: Path) -> None:
    done = busway("invoke", "price", "--data", '{"total": 7}', cwd=project)
    assert done.stdout.splitlines() == [
        'partial    {"progress": 0.5, "note": "half"}',
        'partial    {"setup": ["setup"]}',
        'published  order.priced  {"of": "order.x"}',
        "torn down",
        'succeeded  {"total": 7, "subject": null, "attempt": 1}',
    ]
    assert done.stderr.splitlines() == ["INFO pricing order.x", "INFO shop: of the shop"]
    assert done.returncode == 0
    assert [path.name for path in project.iterdir()] == ["handlers"], "something was stored"


def test_it_has_secrets(project: Path, tmp_path: Path) -> None:
    (tmp_path / "secrets").write_text("TOKEN=of the file\n", encoding="utf-8")
    words = ("invoke", "secretive", "--secrets-file", str(tmp_path / "secrets"))
    done = busway(*words, cwd=project, BUSWAY_SECRET_OTHER="of a variable")
    assert done.stdout == 'torn down\nsucceeded  ["of the file", "of a variable", false]\n'
    done = busway("invoke", "secretive", cwd=project)
    assert done.returncode == 1
    assert "MissingSecret: there is no secret 'TOKEN': set BUSWAY_SECRET_TOKEN where" in done.stderr
    done = busway("invoke", "secretive", "--secrets-file=nowhere", cwd=project)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)


def test_it_prints_json_lines(project: Path) -> None:
    done = busway("invoke", "price", "-d", '{"total": 7}', "--json", "--attempt", "2", cwd=project)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["kind"] for line in lines] == ["partial", "partial", "published", "succeeded"]
    assert lines[2]["type"] == "order.priced"
    assert lines[3]["data"] == {"total": 7, "subject": None, "attempt": 2}
    assert "torn down" in done.stderr
    [failed] = busway("invoke", "awaits", "--json", cwd=project).stdout.splitlines()
    error = json.loads(failed)["error"]
    assert (error["type"], error["message"]) == ("ValueError", "async")
    assert "in awaits" in error["traceback"]


@pytest.mark.parametrize(
    ("words", "result"),
    [
        (("later", "--data", "[1]"), '["x", [1]]'),
        (("later", "--type", "a.b"), '["a.b", null]'),
        (("orders:plain", "--data", "8"), "8"),
        (
            ("price", "--data", '{"total": 1}', "--subject", "s1"),
            '{"total": 1, "subject": "s1", "attempt": 1}',
        ),
    ],
)
def test_event_and_handler_are_chosen(project: Path, words: tuple[str, ...], result: str) -> None:
    done = busway("invoke", *words, cwd=project)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, f"succeeded  {result}"), done.stderr


def test_partials_of_an_async_generator_are_printed(project: Path) -> None:
    done = busway("invoke", "count", cwd=project)
    assert done.stdout.splitlines() == ["partial    0", "partial    1", "torn down", "succeeded  null"]


@pytest.mark.parametrize(
    ("words", "line", "next_"),
    [
        (("price", "-d", "{}"), "failed     KeyError: 'total'", "again in 1 s"),
        (("price", "-d", "{}", "--attempt", "2"), "dead       KeyError: 'total'", ""),
        (("gives_up",), "dead       Fail: there is no such book", ""),
        (("waits",), "failed     Retry: retry requested in 7 s", "again in 7 s"),
        (("leaves",), "failed     SystemExit: bye", "again in 1 s"),
        (("awaits",), "failed     ValueError: async", "again in 1 s"),
        (("streams",), "failed     ValueError: streams", "again in 1 s"),
        (("typed", "-d", '{"n": "x"}'), "dead       InvalidData: the event's data does not fit Order: n", ""),
        (("typed", "-d", '{"n": 2}'), "dead       NotEncodable: the returned value: .c is a complex", ""),
    ],
)
def test_a_failure_shows_why_and_what_would_follow(
    project: Path, words: tuple[str, ...], line: str, next_: str
) -> None:
    done = busway("invoke", *words, cwd=project)
    assert done.returncode == 1
    assert any(shown.startswith(line) for shown in done.stdout.splitlines()), done.stdout
    assert "orders.py" in done.stderr or "typed" in words
    assert "/busway/" not in done.stderr, "frames of Busway are shown"
    assert "asyncio/" not in done.stderr, "frames of the event loop are shown"
    assert ("would try again" in done.stderr) is bool(next_)
    assert next_ in done.stderr


def test_it_says_when_a_gateway_would_not_run_the_handler(project: Path) -> None:
    done = busway("invoke", "price", "-d", '{"total": 1}', "--type", "other", cwd=project)
    assert done.returncode == 0
    assert "patterns do not match" in done.stderr
    done = busway("invoke", "price", "-d", '{"total": 1}', "--subject", "x", cwd=project)
    assert "filter does not select" in done.stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("nobody",), "no handler and no target 'nobody'"),
        (("nobody",), "ModuleNotFoundError: No module named 'nothing_of_this_name'"),
        (("price", "--data", "{"), "--data is not valid JSON"),
        (("price", "--type", "a b"), "type"),
        (("price", "--handlers", "nowhere"), "there is no handlers folder 'nowhere'"),
        (("price", "--app-dir", "nowhere"), "there is no folder 'nowhere'"),
    ],
)
def test_wrong_use_is_said_with_status_2(project: Path, words: tuple[str, ...], says: str) -> None:
    done = busway("invoke", *words, cwd=project)
    assert (done.returncode, done.stdout) == (2, "")
    assert says in done.stderr


def test_the_debugger_and_input_work_in_the_terminal(project: Path) -> None:
    ours, its = pty.openpty()
    command = [sys.executable, "-m", "busway", "invoke", "asks"]
    with forked.Popen(
        command, cwd=project, env={**clean_environment(), "TERM": "dumb"}, stdin=its, stdout=its, stderr=its
    ) as program:
        os.close(its)
        os.write(ours, b"p event.type\nc\nAda\n")
        said = b""
        while True:
            try:
                chunk = os.read(ours, 4096)
            except OSError:  # the program has ended
                break
            said += chunk
        assert program.wait(PATIENCE) == 0, said.decode()
    os.close(ours)
    assert b"'order.x'" in said
    assert b'succeeded  "Ada"' in said


def test_the_debugger_starts_where_an_exception_was_raised(project: Path) -> None:
    done = busway("invoke", "price", "-d", "{}", "--pdb", cwd=project, text="p sorted(event.data)\nq\n")
    assert done.returncode == 1
    assert "[]" in done.stdout


def test_init_writes_a_handler_and_its_test(tmp_path: Path) -> None:
    done = busway("init", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in (tmp_path / "handlers").iterdir()) == [
        "test_welcome.py",
        "welcome.py",
    ]
    for command in ("busway serve", "busway tail", "busway publish user.created name=Ada"):
        assert command in done.stdout
    said = run_pytest(tmp_path, "handlers", "-W", "error")
    assert "1 passed" in said.stdout, said.stdout + said.stderr
    done = busway("invoke", "welcome", "-d", '{"name": "Ada"}', cwd=tmp_path)
    assert done.stdout.splitlines()[-1] == 'succeeded  {"greeting": "Hello, Ada!"}'


def test_what_init_wrote_is_served(tmp_path: Path) -> None:
    busway("init", "jobs", cwd=tmp_path)
    service = Service(tmp_path, handlers=tmp_path / "jobs", workers=1)
    try:
        service.start()
        service.finished(service.publish("user.created", {"name": "Ada"})["seq"])
        assert service.results()[0]["data"] == {"greeting": "Hello, Ada!"}
        assert not [each for each in service.ok("GET", "/v1/targets")["items"] if each.get("error")]
    finally:
        service.close()


@pytest.mark.parametrize("there", ["welcome.py", "test_welcome.py", "other.py"])
def test_init_overwrites_nothing(tmp_path: Path, there: str) -> None:
    (tmp_path / "handlers").mkdir()
    (tmp_path / "handlers" / there).write_text("mine\n", encoding="utf-8")
    done = busway("init", cwd=tmp_path)
    assert done.returncode == 1
    assert there in done.stderr
    assert [path.name for path in (tmp_path / "handlers").iterdir()] == [there]
    assert (tmp_path / "handlers" / there).read_text(encoding="utf-8") == "mine\n"


def test_init_into_a_file_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "handlers").write_text("a file\n", encoding="utf-8")
    done = busway("init", cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (1, "", 1)


def test_serve_without_a_folder_says_what_to_do(tmp_path: Path) -> None:
    done = busway("serve", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "busway init" in done.stderr
    assert list(tmp_path.iterdir()) == []
