"""What holds for each command: `--json`, `--dry-run` where something changes, and the exit status."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from busway.gateway import cli
from busway.gateway.access.keys import declared_id, key_text, new_secret
from busway.gateway.store.databases import choose
from rich.cells import cell_len
from websockets.sync.client import connect

from tests import forked

from .service import PATIENCE, Service, clean_environment, until
from .test_commands import on_terminal, plain, terminal

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/commands.md").read_text(encoding="utf-8")
CODE = """
import time
from pathlib import Path
from busway import handler

@handler("good")
def good(event): return "good"

@handler("bad", max_attempts=1)
def bad(event): raise ValueError("bad")

@handler("slow")
def slow(event):
    yield "part"
    while not Path(event.data).exists(): time.sleep(0.01)

@handler("later", paused=True)
def later(event): return "later"
"""

CHANGES = {  # each command that changes something, with what may follow it
    "init": [("new",)],
    "publish": [("some.type", "a=1", "--id=1"), ("--file=events.ndjson",), ("good", "-d", "1")],
    "retry": [("{dead}",), ("--dead",), ("--dead", "--handler=bad")],
    "cancel": [("{waiting}",), ("--event={event}",)],
    "replay": [("good",), ("good", "--shadow", "--types=a.*", "--before=2"), ("--cancel={replay}",)],
    "pause": [("good",)],
    "resume": [("later",)],
    "delete": [("spare",), ("--missing",)],
    "runs retry": [("{dead}",)],
    "runs cancel": [("{waiting}",)],
    "replays cancel": [("{replay}",)],
    "handlers create": [("new", "target=all:good", "events=a.*", "events=b", "backoff.initial:=2")],
    "handlers update": [("spare", "timeout=5", "filter.exact.subject=x"), ("spare", "--file=fields.json")],
    "handlers put": [("new", "target=https://example.com/x", "events=a"), ("spare", "timeout=7")],
    "handlers pause": [("good",)],
    "handlers resume": [("later",)],
    "handlers delete": [("spare",)],
    "handlers secret": [("hook",)],
    "schedules create": [("new", "cron=0 3 * * *", "timezone=Europe/Berlin", "event.type=a")],
    "schedules update": [("hourly", "every=2h"), ("hourly", "event.data:=1", "event.type=b")],
    "schedules put": [("new", "every=1h", "event.type=a"), ("hourly", "paused=true")],
    "schedules pause": [("hourly",)],
    "schedules resume": [("halted",)],
    "schedules run": [("hourly",)],
    "schedules delete": [("hourly",)],
    "sources create": [("new", "kind=github", "type=github.{{event}}")],
    "sources update": [("repo", "secret:=null"), ("repo", "description=x")],
    "sources put": [("new", "kind=hmac", "type=a"), ("repo", "kind=github", "type=b")],
    "sources pause": [("repo",)],
    "sources resume": [("silent",)],
    "sources delete": [("repo",)],
    "subscriptions delete": [("billing",)],
    "keys create": [("you", "--scope=publish", "--database-url={keys}")],
    "keys rotate": [("1", "--database-url={keys}")],
    "keys revoke": [("1", "--database-url={keys}")],
    "migrate": [("--database-url={keys}",), ("--database-url=sqlite:///new.db",)],
    "backup": [("copy.db", "--database-url={keys}")],
    "export": [("copy.ndjson", "--database-url={keys}")],
    "import": [("moved.ndjson", "--database-url=sqlite:///new.db")],
    "openapi": [("documents",)],
}
READS = {  # each other one, likewise
    "run": [("{dead}",)],
    "runs list": [(), ("--handler=bad",)],
    "runs show": [("{dead}",)],
    "replays list": [()],
    "replays show": [("{replay}",)],
    "handlers list": [()],
    "handlers show": [("good",)],
    "handlers test": [("good", "a=1"), ("later", "--type=x", "-a", "priority=9")],
    "handlers revisions": [("good",), ("good", "1")],
    "handlers targets": [()],
    "schedules list": [()],
    "schedules show": [("hourly",)],
    "sources list": [()],
    "sources show": [("repo",)],
    "subscriptions list": [()],
    "status": [()],
    "nodes": [()],
    "audit": [("-n", "3")],
    "keys list": [("--database-url={keys}",)],
    "keys declare": [("you",)],
    "doctor": [("--url={url}", "--handlers={handlers}", "--database-url={keys}")],
    "invoke": [("good", "--handlers={handlers}")],
    "serve": [],  # below
    "tail": [],  # in test_tail_command
}
REFUSED = [  # refused with and without --dry-run, in the same words
    ("init", "{handlers}"),
    ("publish", "two words"),
    ("publish", "a", "-a", "priority=high"),
    ("publish", "a", "-a", "UPPER=1"),
    ("publish",),
    ("retry", "{done}"),
    ("retry", "999999999"),
    ("retry",),
    ("retry", "--dead", "--handler=nobody"),
    ("cancel", "{done}"),
    ("cancel", "--event=999999999"),
    ("replay", "nobody"),
    ("replay", "good", "--types=a..b"),
    ("replay", "good", "--after=5", "--before=5"),
    ("replay", "--cancel=999999999"),
    ("pause", "later"),
    ("pause", "nobody"),
    ("pause", "../runs"),
    ("resume", "good"),
    ("delete", "good"),
    ("delete", "nobody"),
    ("runs", "retry", "{done}"),
    ("cancel", "--event={quiet}"),
    ("replays", "cancel", "999999999"),
    ("handlers", "create", "good", "target=all:good", "events=a"),
    ("handlers", "create", "new", "target=all:nothing", "events=a"),
    ("handlers", "create", "new", "target=https://127.0.0.1/x", "events=a"),
    ("handlers", "create", "new", "target=ftp://example.com", "events=a"),
    ("handlers", "create", "new", "target=all:good", "events=a..b"),
    ("handlers", "create", "new", "target=all:good"),
    ("handlers", "create", "new", "target=all:good", "events=a", "filter:={{}}"),
    ("handlers", "create", "new", "target=all:good", "events=a", "colour=red"),
    ("handlers", "create", "new", "target=all:good", "events"),
    ("handlers", "create", "New", "target=all:good", "events=a"),
    ("handlers", "create", "new", "--file=events.ndjson"),
    ("handlers", "create", "new", "--file=nowhere.json"),
    ("handlers", "update", "good", "timeout=soon"),
    ("handlers", "update", "good", "timeout=0"),
    ("handlers", "update", "spare", "target:=null"),
    ("handlers", "update", "good", "pool=thread", "memory=5"),
    ("handlers", "update", "nobody", "timeout=5"),
    ("handlers", "put", "spare", "rate=often"),
    ("handlers", "delete", "good"),
    ("handlers", "secret", "good"),
    ("handlers", "pause", "later"),
    ("schedules", "create", "hourly", "every=1h", "event.type=a"),
    ("schedules", "create", "new", "cron=0 25 * * *", "event.type=a"),
    ("schedules", "create", "new", "cron=0 3 * * *", "timezone=Europe/Atlantis", "event.type=a"),
    ("schedules", "create", "new", "every=1h", "cron=0 3 * * *", "event.type=a"),
    ("schedules", "create", "new", "every=1h", "event.type=a b"),
    ("schedules", "update", "hourly", "every=often"),
    ("schedules", "put", "hourly", "every=0s"),
    ("schedules", "pause", "halted"),
    ("schedules", "resume", "hourly"),
    ("schedules", "run", "nobody"),
    ("schedules", "delete", "nobody"),
    ("sources", "create", "repo", "kind=github", "type=a"),
    ("sources", "create", "new", "kind=gitlab", "type=a"),
    ("sources", "create", "new", "kind=stripe", "type=a"),
    ("sources", "create", "new", "kind=github", "type={{"),
    ("sources", "put", "repo", "kind=hmac"),
    ("sources", "update", "repo", "kind=hmac"),
    ("sources", "update", "nobody", "description=x"),
    ("sources", "delete", "nobody"),
    ("subscriptions", "delete", "nobody"),
    ("keys", "create", "you", "--scope=all", "--database-url={keys}"),
    ("keys", "create", "you", "--database-url=sqlite:///new.db"),
    ("keys", "rotate", "99", "--database-url={keys}"),
    ("keys", "revoke", "99", "--database-url={keys}"),
    ("migrate", "--database-url=mysql://x"),
    ("migrate", "--database-url=sqlite:///moved.ndjson"),
    ("backup", "moved.ndjson", "--database-url={keys}"),
    ("backup", "copy.db", "--database-url=sqlite:///new.db"),
    ("export", "moved.ndjson", "--database-url={keys}"),
    ("export", "nowhere/moved", "--database-url={keys}"),
    ("import", "moved.ndjson", "--database-url={keys}"),
    ("import", "cut.ndjson", "--database-url=sqlite:///new.db"),
    ("import", "events.ndjson", "--database-url=sqlite:///new.db"),
    ("import", "nowhere.ndjson", "--database-url=sqlite:///new.db"),
]


def commands() -> dict[str, Any]:
    """Each command of the program, by its words."""
    program: Any = typer.main.get_command(cli.app)
    found: dict[str, Any] = {}
    for name in program.commands:
        command = program.get_command(None, name)
        for inner, one in getattr(command, "commands", {"": command}).items():
            found[f"{name} {inner}".strip()] = one
    return found


def test_each_command_is_known_and_prints_json_and_tries_without_changes() -> None:
    found = {
        words: {option for parameter in command.params for option in parameter.opts}
        for words, command in commands().items()
    }
    assert set(found) == {*CHANGES, *READS}, "a new command belongs to one of them"
    assert [words for words, options in found.items() if "--json" not in options] == []
    assert {words for words, options in found.items() if "--dry-run" in options} == {*CHANGES}


class Place(NamedTuple):
    """A gateway with a run of each kind, a folder with files, and a database with a key."""

    service: Service
    folder: Path
    names: dict[str, Any]

    def words(self, *words: str) -> list[str]:
        return [word.format(**self.names, url=self.service.url) for word in words]

    def state(self) -> list[Any]:
        """All rows of both databases, and all files but those that SQLite has beside an open database."""
        urls = (self.service.database_url, self.names["keys"])
        rows = [b"".join(line for line, _, _ in choose(url).export()) for url in urls]
        files = [path for path in sorted(self.folder.iterdir()) if not path.name.startswith("keys.db-")]
        return [*rows, {str(path): path.stat().st_size for path in files if path.suffix != ".lock"}]


Run = Callable[..., tuple[int, list[Any], list[str]]]


@pytest.fixture
def run(place: Place, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run a command in this process; return its status, its JSON lines, and what it says to people."""

    def program(*words: str) -> tuple[int, list[Any], list[str]]:
        return _run(monkeypatch, capsys, place.service.url, *place.words(*words))

    monkeypatch.chdir(place.folder)
    return program


def _run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, *words: str
) -> tuple[int, list[Any], list[str]]:
    monkeypatch.setenv("BUSWAY_URL", url)
    monkeypatch.setattr(sys, "argv", ["busway", *words, "--json"])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        cli.main()
    said = capsys.readouterr()
    return int(ended.value.code or 0), [*map(json.loads, said.out.splitlines())], said.err.splitlines()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    folder = tmp_path_factory.mktemp("files")
    service = Service(tmp_path_factory.mktemp("every"), workers=1)
    service.write("all.py", CODE)
    service.start()
    done = service.finished(service.publish("good")["seq"])["runs"][0]["id"]
    dead = service.finished(service.publish("bad")["seq"])["runs"][0]["id"]
    event = service.publish("later")["seq"]
    waiting = service.ok("GET", f"/v1/events/{event}")["runs"][0]["id"]
    service.ok("POST", "/v1/handlers", {"name": "spare", "target": "all:good", "events": ["spare"]})
    hook = {"name": "hook", "target": "https://example.com/hook", "events": ["hook"]}
    service.ok("POST", "/v1/handlers", hook)
    hourly = {"every": "1h", "event": {"type": "hourly"}}
    for name, paused in (("hourly", False), ("halted", True)):
        service.ok("POST", "/v1/schedules", {"name": name, **hourly, "paused": paused})
    for name, paused in (("repo", False), ("silent", True)):
        made = {"name": name, "kind": "github", "type": "github.{event}", "paused": paused}
        service.ok("POST", "/v1/sources", made)
    with connect(f"{service.url.replace('http', 'ws')}/v1/subscribe") as socket:
        socket.send('{"op": "subscribe", "id": "s", "durable": "billing"}')
        assert json.loads(socket.recv())["op"] == "subscribed"
    durables = "/v1/subscriptions"
    until(lambda: not service.ok("GET", durables)["items"][0]["connected"], "the client to be gone")
    quiet = service.publish("nobody.wants")["seq"]
    replay = service.ok("POST", "/v1/handlers/later/replay", {})["id"]
    until(lambda: service.ok("GET", f"/v1/replays/{replay}")["created"], "the replay to have runs")
    keys = f"sqlite:///{folder / 'keys.db'}"
    made = forked.run(
        [sys.executable, "-m", "busway", "keys", "create", "me", "--create", f"--database-url={keys}"],
        env=clean_environment(), timeout=PATIENCE, check=True, capture_output=True,
    )  # fmt: skip
    assert made.stdout.startswith(b"bw_1_")
    (folder / "events.ndjson").write_text('{"type": "many"}\n\n{"type": "good", "data": 1}\n')
    (folder / "fields.json").write_text('{"timeout": 9, "name": "spare"}')
    moved = b"".join(line for line, _, _ in choose(service.database_url).export())
    (folder / "moved.ndjson").write_bytes(moved)
    (folder / "cut.ndjson").write_bytes(moved[:-1])
    ids = {"done": done, "dead": dead, "waiting": waiting, "event": event, "replay": replay, "quiet": quiet}
    yield Place(service, folder, {**ids, "keys": keys, "handlers": service.handlers})
    service.close()


def test_what_reads_prints_json_alone(place: Place, run: Run) -> None:
    for command, examples in READS.items():
        for words in examples:
            status, lines, _ = run(*command.split(), *words)
            assert (status, all(isinstance(line, dict) for line in lines)) == (0, True), (command, lines)
    for command in ("handlers", "schedules", "sources", "subscriptions", "replays", "runs"):
        assert run(command) == run(command, "list"), command


def test_what_is_refused_is_refused_in_a_dry_run_too(place: Place, run: Run) -> None:
    before = place.state()
    for words in REFUSED:
        refused = run(*words)
        assert (refused[0] in {1, 2}, refused[1]) == (True, []), (words, refused)
        error = json.loads(refused[2][-1])
        assert error["exit_status"] == refused[0], words
        assert run(*words, "--dry-run") == refused, words
    assert place.state() == before


def test_a_key_without_the_scope_is_refused_in_a_dry_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", None)
    keys = {}
    entries = ""
    for name, more in {
        "reader": 'scopes = ["handlers:read", "subscribe"]',
        "writer": 'scopes = ["handlers:write"]',
        "shop": 'scopes = ["publish"]\ntypes = ["shop.*"]',
    }.items():
        secret, digest = new_secret()
        keys[name] = key_text(declared_id(digest), secret)
        entries += f'[keys.{name}]\ndigest = "sha256:{digest.hex()}"\n{more}\n'
    (tmp_path / "keys.toml").write_text(entries)
    service = Service(tmp_path, workers=1, pool="thread", keys_file=tmp_path / "keys.toml")
    service.write("all.py", CODE)
    service.prepares = False
    service.key = keys["reader"]
    service.start()
    try:
        for name, words, error in SCOPES:
            key = f"--key={keys[name]}"
            tried = _run(monkeypatch, capsys, service.own_url, *words, key, "--dry-run")
            status, _, told = _run(monkeypatch, capsys, service.own_url, *words, key)
            assert (status, told) == (tried[0], tried[2]), words
            assert (error in told[-1]) if error else (status, told) == (0, []), (words, told)
    finally:
        service.close()


SCOPES = [  # the key, the command, and its error
    ("reader", ("pause", "good"), "lacks the scope 'handlers:write'"),
    ("reader", ("publish", "shop.sold"), "lacks the scope 'publish'"),
    ("reader", ("replay", "good"), "lacks the scope 'handlers:write'"),
    ("writer", ("sources", "delete", "nobody"), "lacks the scope 'admin'"),
    ("writer", ("handlers", "put", "new", "target=all:good", "events=a"), None),
    ("writer", ("pause", "good"), None),
    ("writer", ("cancel", "99"), "run 99 does not exist"),
    ("writer", ("retry", "--dead"), None),
    ("shop", ("publish", "mail.sent"), "TYPE: this API key may not publish events of the type 'mail.sent'"),
    ("shop", ("publish", "shop.sold"), None),
]


def test_lines_of_a_dry_run_are_read_as_by_the_gateway(place: Place, run: Run) -> None:
    bad = place.folder / "bad.ndjson"
    bad.write_text('{"type": "a"}\n{"type": "b c"}\n[]\n{"data": 1}\n{"type": "d", "X": 1}\nno\n')
    try:
        status, (tried,), said = run("publish", f"--file={bad}", "--source=/x", "--dry-run")
        assert (status, tried["accepted"], tried["rejected_total"]) == (1, 1, 5)
        assert json.loads(said[-1])["error"] == "rejected lines: 5; nothing was sent"
        status, (done,), _ = run("publish", f"--file={bad}", "--source=/x")
        assert (status, done["rejected"]) == (1, tried["rejected"])
    finally:
        bad.unlink()


def test_the_status_is_as_documented(place: Place, run: Run) -> None:
    documented = re.findall(r"^\| (\d+) \| ", PAGE, re.MULTILINE)
    assert documented == ["0", "1", "2", "130"]
    assert run("handlers")[0] == 0
    assert run("handlers", "--url=http://127.0.0.1:9")[0] == 1
    status, lines, said = run("handlers", "--nothing")
    assert (status, lines) == (2, [])
    assert json.loads(said[0]) == {"error": "No such option: --nothing", "exit_status": 2}
    command = [sys.executable, "-m", "busway", "publish", "later", "--id=interrupted", "--wait"]
    with forked.Popen(
        command, env={**clean_environment(), "BUSWAY_URL": place.service.url}, stdin=subprocess.DEVNULL
    ) as waiting:
        until(lambda: place.service.ok("GET", "/v1/events?id=interrupted")["items"], "the event")
        waiting.send_signal(signal.SIGINT)
        assert waiting.wait(PATIENCE) == 130


def test_a_dry_run_says_what_would_change_and_changes_nothing(place: Place, run: Run) -> None:
    before = place.state()
    for command, examples in CHANGES.items():
        for words in examples:
            status, lines, said = run(*command.split(), *words, "--dry-run")
            assert status == 0, (command, words, said)
            assert all(line["dry_run"] for line in lines), (command, lines)
            assert place.state() == before, (command, words)
    assert run("publish", "good", "--dry-run")[1][0]["handlers"] == ["good"]
    assert run("retry", "--dead", "--dry-run")[1][0]["runs"] == 1
    (planned,) = run("cancel", "--event={event}", "--dry-run")[1]
    (done,) = run("cancel", "--event={event}")[1]
    assert [each["state"] for each in done["runs"]] == ["cancelled"] * planned["runs"]
    assert place.state() != before  # the comparison sees it


def test_a_terminal_has_a_bar_with_amount_and_rate(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(place.folder)
    keys = f"--database-url={place.names['keys']}"
    for words, label, amount in (
        (("export", "bar.ndjson", keys), "exporting", "2 rows, "),
        (("backup", "bar.db", keys), "copying", r"[0-9.]+ KiB, [0-9.]+ [KM]iB/s"),
        (("import", "bar.ndjson", "--database-url=sqlite:///bars.db"), "importing", "[0-9.]+ KiB, "),
    ):
        shown = plain(on_terminal(place.service, *words))
        assert re.search(rf"{label} ━+ 100% {amount}", shown), shown
        drawn = re.findall(rf"{label}[^\r\n\x1b]*", shown)
        assert max(map(cell_len, drawn)) <= 80
    for made in place.folder.glob("bar*"):
        made.unlink()


def test_a_wait_for_results_shows_and_leaves_nothing_but_them(place: Place, tmp_path: Path) -> None:
    words = ("publish", "slow", "-d", json.dumps(str(tmp_path / "end")), "--wait")
    ours, running = terminal(place.service, *words, columns=120)
    written = b""
    with running, contextlib.suppress(OSError):  # the other side has closed
        while chunk := os.read(ours, 1 << 16):
            written += chunk
            if b"partial" in written and b"waiting for results" in written:
                (tmp_path / "end").touch()
    os.close(ours)
    parts = re.split(r"\r?\x1b\[2K|\n|\r|\x1b\[[0-9?]*[A-Za-z]", plain(written.decode()))
    first, second, last = [part for part in parts if part.strip() and "waiting for results" not in part]
    assert (first.split()[1], second.split()[1]) == ("partial", "succeeded")
    assert last.endswith("is completed: 1 succeeded")


def test_serve_prints_its_address_as_json(tmp_path: Path) -> None:
    (tmp_path / "handlers").mkdir()
    command = [sys.executable, "-m", "busway", "serve", "--port=0", "--pool=thread", "--json"]
    with forked.Popen(
        command, cwd=tmp_path, env=clean_environment(), stdout=subprocess.PIPE, text=True,
        stderr=subprocess.DEVNULL,
    ) as serving:  # fmt: skip
        assert serving.stdout is not None
        found = json.loads(serving.stdout.readline())
        serving.send_signal(signal.SIGTERM)
        assert serving.stdout.read() == ""
        assert serving.wait(PATIENCE) == 0
    assert found["url"].startswith("http://127.0.0.1:")
    assert (found["role"], found["pool"], found["open"]) == ("all", "thread", True)
