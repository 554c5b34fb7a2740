"""`busway publish`: where the payload comes from, `--wait`, NDJSON, and what errors say."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import ANY

import pytest

from tests import forked

from .service import PATIENCE, Service, clean_environment, until

CODE = """
from busway import handler

@handler("greet")
def hello(event): return ["hello", event.data]

@handler("chain")
def first(event, ctx):
    ctx.publish("greet", "next")
    yield "part"

@handler("odd", max_attempts=2, backoff={"initial": 0.01, "factor": 1, "max": 1})
def breaks(event): raise ValueError("odd")

@handler("never", concurrency=1)
def never(event): import time; time.sleep(600)
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("publish"), workers=2)
    service.write("all.py", CODE)
    yield service.start()
    service.close()


@pytest.fixture
def publish(service: Service) -> Any:
    def run(*words: str, status: int = 0, text: str | None = None, **more: Any) -> tuple[str, str]:
        channel = {"input": text} if text is not None else {"stdin": more.pop("stdin", subprocess.DEVNULL)}
        done = forked.run(
            [sys.executable, "-m", "busway", "publish", *words], **channel, **more,
            capture_output=True, text=True, timeout=PATIENCE, check=False,
            env={**clean_environment(), "BUSWAY_URL": service.url},
        )  # fmt: skip
        assert done.returncode == status, (words, done.stdout, done.stderr)
        return done.stdout, done.stderr

    return run


def stored(service: Service, receipt: str) -> Any:
    return service.ok("GET", f"/v1/events/{json.loads(receipt)['seq']}")


PAIRS = ["item=book", "quantity:=2", "tags:=[1, {}]", "url=http://a:=b", "note=", "x=y=z"]
OBJECT = {"item": "book", "quantity": 2, "tags": [1, {}], "url": "http://a:=b", "note": "", "x": "y=z"}


@pytest.mark.parametrize(
    ("words", "text", "data"),
    [
        (PAIRS, None, OBJECT),
        (["-d", '{"a": 1}'], None, {"a": 1}),
        (["--data=null"], None, None),
        ([], '{"from": "stdin"}\n', {"from": "stdin"}),
        ([], "", None),
        ([], " \n", None),
        (["-f", "-"], "[1]", [1]),
        (["-f", "payload.json"], None, "from a file"),
        (["-d", "1"], "not read", 1),
        (["a=1"], "not read", {"a": "1"}),
    ],
)
def test_the_payload_is_what_is_given(
    service: Service, publish: Any, tmp_path: Path, words: list[str], text: str | None, data: Any
) -> None:
    (tmp_path / "payload.json").write_text('"from a file"')
    receipt, notes = publish("some.type", *words, text=text, cwd=tmp_path)
    assert notes == ""
    assert stored(service, receipt).get("data") == data


@pytest.mark.long
def test_standard_input_that_is_closed_or_empty_is_no_payload(service: Service, publish: Any) -> None:
    for before in ("exec <&-", "exec </dev/null", "true |"):
        command = (
            f"{before} {'' if before.endswith('|') else '; '}{sys.executable} -m busway publish some.type"
        )
        done = forked.run(
            ["bash", "-c", command], capture_output=True, text=True, timeout=PATIENCE, check=True,
            env={**clean_environment(), "BUSWAY_URL": service.url},
        )  # fmt: skip
        assert stored(service, done.stdout).get("data") is None
        assert done.stderr == ""


def test_standard_input_that_does_not_end_is_named(service: Service) -> None:
    with forked.Popen(
        [sys.executable, "-m", "busway", "publish", "some.type"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**clean_environment(), "BUSWAY_URL": service.url},
    ) as running:  # fmt: skip
        assert running.stdin and running.stdout and running.stderr  # noqa: PT018
        assert "standard input" in running.stderr.readline()
        running.stdin.write('"late"')
        running.stdin.close()
        assert stored(service, running.stdout.read())["data"] == "late"


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        ([], 2, "TYPE is missing"),
        (["a b"], 2, "TYPE: "),
        (["a", "--subject", ""], 2, "--subject: "),
        (["a", "-a", "priority=high"], 2, "--attribute priority: "),
        (["a", "-a", "Up=1"], 2, "--attribute Up: "),
        (["a", "-d", "[" * 100_000], 2, "--data"),
        (["a", "-d", "1e999"], 1, "double"),
        (["a", "b"], 2, "'b'"),
        (["a", "=b"], 2, "'=b'"),
        (["a", "b:=x"], 2, "the value of b:="),
        (["a", "b=1", "-d", "1"], 2, "not both"),
        (["a", "--wait=x"], 2, "--wait"),
        (["--ndjson", "--wait"], 2, "NDJSON"),
        (["a", "--producer-id=x"], 2, "--producer-id"),
        (["--ndjson", "--producer-id=x/y"], 2, "--producer-id"),
        (["-f", "nowhere.ndjson"], 2, "nowhere.ndjson"),
    ],
)
def test_errors_speak_of_arguments_and_options(
    publish: Any, words: list[str], status: int, said: str
) -> None:
    written, error = publish(*words, status=status)
    assert written == ""
    assert said in error
    assert "[0]" not in error
    assert "Traceback" not in error


@pytest.mark.long
def test_a_key_that_is_refused_is_said_in_options(service: Service, tmp_path: Path) -> None:
    closed = Service(tmp_path, workers=1)
    try:
        where = f"--database-url={closed.database_url}"
        forked.run(
            [sys.executable, "-m", "busway", "keys", "create", "me", "--create", where],
            check=True, capture_output=True, timeout=PATIENCE,
        )  # fmt: skip
        closed.start()
        for command in (
            ["publish", "a", "-d", "1"],
            ["publish", "a", "-d", "1", "--key=x"],
            ["publish", "a", "-d", "1", "--wait", "-k", "bw_1_wrong"],
            ["tail"],
            ["tail", "-k", "bw_1_wrong"],
            ["runs", "--key=x"],
        ):
            done = forked.run(
                [sys.executable, "-m", "busway", *command, f"--url={closed.url}"],
                capture_output=True, text=True, timeout=PATIENCE, check=False, env=clean_environment(),
            )  # fmt: skip
            assert done.returncode == 1
            assert done.stderr.count("\n") == 1
            assert "BUSWAY_KEY" in done.stderr
            assert "Authorization" not in done.stderr
    finally:
        closed.close()


@pytest.mark.parametrize("key", ["bw_1_secret\x01", "bw_1_secrét"])
def test_a_key_with_other_characters_is_not_shown(publish: Any, key: str) -> None:
    _, said = publish("a", "-d", "1", f"--key={key}", status=2)
    assert "--key" in said
    assert "secr" not in said
    publish("a", "-d", "1", "--key=bw_1_space\r\n")  # an open gateway takes any


@pytest.mark.long
@pytest.mark.parametrize("answer", [b"<html>", b"[]", b"7"])
def test_what_is_no_gateway_is_said(answer: bytes) -> None:
    class Page(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self) -> None:
            self.do_GET()

        def log_message(self, *_: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Page) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for command in (["runs"], ["publish", "a", "-d", "1"], ["status"], ["tail", "-n", "1"]):
            done = forked.run(
                [sys.executable, "-m", "busway", *command, f"--url=http://127.0.0.1:{server.server_port}"],
                capture_output=True, text=True, timeout=PATIENCE, check=False, env=clean_environment(),
            )  # fmt: skip
            assert (done.returncode, done.stderr.count("\n")) == (1, 1), done.stderr
            assert "is it a Busway gateway?" in done.stderr
        server.shutdown()


@pytest.mark.parametrize("wait", [["--wait"], ["-w", "100"], ["--wait=99.5"]])
def test_wait_prints_all_that_the_event_caused(publish: Any, wait: list[str]) -> None:
    lines, notes = publish(*wait, "chain", "a=1")
    kinds = [line.split()[1:3] for line in lines.splitlines()]
    assert kinds == [["partial", "chain"], ["succeeded", "chain"], ["succeeded", "greet"]]
    assert lines.splitlines()[-1].endswith("completes 2 succeeded")
    assert "is completed: 2 succeeded" in notes
    items = [json.loads(line) for line in publish("chain", *wait, "--json")[0].splitlines()]
    assert [item["kind"] for item in items] == ["partial", "succeeded", "succeeded"]


@pytest.mark.long
def test_json_stays_json_in_every_encoding(service: Service) -> None:
    for command in (["publish", "greet", "-d", '"é€😀"', "--wait"], ["tail", "-n", "1", "greet"]):
        with forked.Popen(
            [sys.executable, "-m", "busway", *command, "--json"],
            stdout=subprocess.PIPE, stdin=subprocess.DEVNULL,
            env={**clean_environment(), "BUSWAY_URL": service.url, "PYTHONIOENCODING": "ascii"},
        ) as running:  # fmt: skip
            assert running.stdout
            assert json.loads(running.stdout.readline())["data"] == ["hello", "é€😀"]
            running.terminate()


def test_wait_fails_if_a_run_is_dead_or_time_is_up(service: Service, publish: Any) -> None:
    lines, _ = publish("odd", "--wait", status=1)
    assert [line.split()[1] for line in lines.splitlines()] == ["failed", "dead"]
    assert "busway run " in lines
    for seconds in ("1", "5", "30"):  # on a busy machine the receipt takes longer than the first
        lines, said = publish("never", "--wait", seconds, status=1)
        assert lines == ""
        if "is stored" in said:
            break
    assert "busway runs --event" in said
    seq = re.findall(r"event ([0-9]+)", said)[0]
    service.post(f"/v1/events/{seq}/cancel")
    _, said = publish("nobody.takes.this", "--wait")
    assert "no handler takes its type" in said


def test_waiting_for_a_stored_event_prints_its_results(publish: Any) -> None:
    for _ in range(2):
        lines, _ = publish("greet", "-d", "7", "--id", "once", "--wait")
        assert '["hello", 7]' in lines


def test_ndjson_is_published_in_batches(service: Service, publish: Any, tmp_path: Path) -> None:
    lines = [json.dumps({"type": "many", "data": number}) for number in range(10_500)]
    lines[3], lines[4], lines[10_200], lines[10_300] = '{"type": "a b"}', "nonsense", "[]", '{"data": 1}'
    lines[5] = lines[6] = '{"type": "many", "id": "one", "source": "/same"}'
    lines[7] = ""
    (tmp_path / "events.ndjson").write_text("\n".join(lines))
    written, said = publish("--file", str(tmp_path / "events.ndjson"), status=1)
    summary = json.loads(written)
    assert summary["accepted"] == 10_500 - 4 - 1 - 1
    assert summary["duplicates"] == 1
    assert [each["line"] for each in summary["rejected"]] == [4, 5, 10_201, 10_301]
    assert summary["rejected_total"] == 4
    assert "rejected lines: 4" in said
    written, _ = publish("default.type", "--subject=s", "--ndjson", text='{"data": 1}\n{"type": "own"}')
    assert json.loads(written)["accepted"] == 2
    newest = service.get("/v1/events", params={"limit": 2}).json()["items"]
    assert [(event["type"], event["subject"]) for event in newest] == [("own", "s"), ("default.type", "s")]


def test_an_event_too_large_is_rejected_alone(publish: Any) -> None:
    text = "\n".join(['{"type": "a"}', json.dumps({"type": "a", "data": "x" * 2_000_000}), '{"type": "b"}'])
    summary = json.loads(publish("--ndjson", text=text, status=1)[0])
    assert (summary["accepted"], [each["line"] for each in summary["rejected"]]) == (2, [2])


def test_a_stream_is_published_as_it_comes(service: Service) -> None:
    reading, writing = os.pipe()
    with forked.Popen(
        [sys.executable, "-m", "busway", "publish", "--ndjson"], stdin=reading, stdout=subprocess.PIPE,
        text=True, env={**clean_environment(), "BUSWAY_URL": service.url},
    ) as running:  # fmt: skip
        os.close(reading)
        assert running.stdout
        os.write(writing, b'{"type": "streamed", "data": 1}\n')
        until(
            lambda: service.get("/v1/events", params={"type": "streamed"}).json()["items"], "the first line"
        )
        os.write(writing, b'{"type": "streamed", "data": 2}')
        os.close(writing)
        assert json.loads(running.stdout.read())["accepted"] == 2


def test_a_command_that_broke_off_goes_on_with_its_producer_id(
    service: Service, publish: Any, tmp_path: Path
) -> None:
    file = tmp_path / "events.ndjson"
    lines = [json.dumps({"type": "goes.on", "data": number}) + "\n" for number in range(30)]
    file.write_text("".join(lines[:10]) + "\nnope\n")
    first = json.loads(publish("-f", str(file), "--producer-id=goes-on", status=1)[0])
    assert (first["accepted"], first["rejected"][0]["line"]) == (10, 12)
    file.write_text("".join(lines[:10]) + "\nnope\n" + "".join(lines[10:]))
    written, said = publish("-f", str(file), "--producer-id=goes-on")
    assert json.loads(written) == {"accepted": 20, "duplicates": 0, "rejected": [], "rejected_total": 0}
    assert "going on with line 13" in said
    found = service.get("/v1/events", params={"type": "goes.on"}).json()["items"]
    assert [event["data"] for event in found] == [*reversed(range(30))]


@pytest.mark.long
@pytest.mark.fault
def test_a_lost_gateway_is_waited_for_and_each_line_stored_once(make_service: Any) -> None:
    service = make_service().start()
    reading, writing = os.pipe()
    with forked.Popen(
        [sys.executable, "-m", "busway", "publish", "t", "--ndjson", "--url", service.own_url],
        stdin=reading, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=clean_environment(),
    ) as running:  # fmt: skip
        os.close(reading)
        assert running.stdout and running.stderr  # noqa: PT018
        os.write(writing, b'{"data": 0}\n{"data": 1}\n')
        until(lambda: len(service.get("/v1/events").json()["items"]) == 2, "the first lines")
        service.kill()
        os.write(writing, b'{"data": 2}\nnope\n')
        assert "going on when it is back" in running.stderr.readline()
        service.start()
        os.write(writing, b'{"data": 3}')
        os.close(writing)
        assert json.loads(running.stdout.read()) == {
            "accepted": 4, "duplicates": 0, "rejected_total": 1,
            "rejected": [{"line": 4, "detail": ANY}],
        }  # fmt: skip
    found = service.get("/v1/events", params={"type": "t"}).json()["items"]
    assert [event["data"] for event in found] == [3, 2, 1, 0]


def test_it_stops_where_the_gateway_does_not_answer(tmp_path: Path) -> None:
    (tmp_path / "events.jsonl").write_text('{"type": "a"}\n')
    done = forked.run(
        [sys.executable, "-m", "busway", "publish", "-f", "events.jsonl", "--url=http://127.0.0.1:9"],
        capture_output=True, text=True, timeout=PATIENCE, check=False, cwd=tmp_path, env=clean_environment(),
    )  # fmt: skip
    assert done.returncode == 1
    assert json.loads(done.stdout)["accepted"] == 0
    assert "stopped before line 1" in done.stderr
