"""`busway tail`: what it begins with, what it says of failures, and of a gateway that is away."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from rich.cells import cell_len

from tests import forked

from .service import PATIENCE, Service, clean_environment, until
from .test_commands import plain, run_of, terminal

CODE = """
from busway import handler

@handler("greet.*")
def hello(event): return ["hello", event.data]

@handler("odd", max_attempts=2, backoff={"initial": 1, "factor": 1, "max": 1, "jitter": 0})
def breaks(event): raise ValueError("odd " + "and long " * 40)

@handler("later", max_attempts=2, backoff={"initial": 3000, "factor": 1, "max": 3000, "jitter": 0})
def later(event): raise OSError("later")
"""


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    service = Service(tmp_path_factory.mktemp("tail"), workers=2)
    service.write("all.py", CODE)
    yield service.start()
    service.close()


@contextmanager
def tailing(
    service: Service, *words: str, program: tuple[str, ...] = ("-m", "busway")
) -> Iterator[subprocess.Popen[str]]:
    """A tail that follows: it has said so."""
    with forked.Popen(
        [sys.executable, *program, "tail", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env={**clean_environment(), "BUSWAY_URL": service.url},
    ) as running:  # fmt: skip
        assert running.stderr
        running.told = running.stderr.readline()  # type: ignore[attr-defined]
        try:
            yield running
        finally:
            running.kill()


def line(running: subprocess.Popen[str]) -> str:
    assert running.stdout
    return running.stdout.readline()


def publish(service: Service, type_: str, count: int, **more: Any) -> None:
    for number in range(count):
        service.finished(service.publish(type_, number, **more)["seq"])


def test_it_says_what_it_follows_and_where(service: Service) -> None:
    with tailing(service, "greet.*", "odd", "-H", "hello", "--kind=dead") as running:
        told = running.told  # type: ignore[attr-defined]
        for words in ("greet.* odd", "of the handler hello", "of kind dead"):
            assert words in told
        assert any(url in told for url in service.urls)


def test_it_ends_when_nobody_reads_its_output_any_more(service: Service) -> None:
    with tailing(service) as running:  # such as `busway tail | head`
        assert running.stdout
        running.stdout.close()
        assert running.wait(PATIENCE) == 0


def test_it_begins_with_the_last_results(service: Service) -> None:
    publish(service, "greet.one", 3, subject="s")
    publish(service, "greet.two", 3)
    with tailing(service, "greet.one", "-n", "2", "--json") as running:
        assert [json.loads(line(running))["data"][1] for _ in range(2)] == [1, 2]
        service.publish("greet.one", "live")
        assert json.loads(line(running))["data"][1] == "live"
    with tailing(service, "-n", "2", "--filter", '{"exact": {"subject": "s"}}') as running:
        for number in (1, 2):
            assert line(running).endswith(f'["hello", {number}]  completes 1 succeeded\n')
    with tailing(service, "--last=1000", "greet.two") as running:
        assert '["hello", 0]' in line(running)
    done = forked.run(
        [sys.executable, "-m", "busway", "tail", "-n", "1", "--after=latest"], capture_output=True, text=True,
        timeout=PATIENCE, check=False, env=clean_environment(),
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")


def test_a_failure_has_its_run_the_next_attempt_and_a_hint(service: Service) -> None:
    with tailing(service, "later", "odd") as running:
        run = run_of(service, "later", None, "retryable")
        said = line(running)
        assert f"run {run} attempt 1" in said
        assert re.search(r"retrying in (49|50)m", said)
        assert said.endswith(f"more: busway run {run}\n")
        service.post(f"/v1/runs/{run}/cancel")
        assert "cancelled" in line(running)
        service.publish("odd")
        first, second = line(running), line(running)
        assert "failed" in first
        assert "retrying " in first
        assert "dead" in second
        assert "retrying" not in second
        assert "attempt 2" in second
        assert "and long " * 39 in second  # piped, it is not cut


@pytest.mark.parametrize(("data", "colour"), [("wide " * 100, ""), ("注文 🚚 " * 60, "1")])
def test_a_terminal_gets_lines_of_its_width(service: Service, data: str, colour: str) -> None:
    service.finished(service.publish("greet.wide", data)["seq"])
    ours, running = terminal(service, "tail", "greet.wide", "-n", "1", columns=120, NO_COLOR=colour)
    with running:
        written = b""
        while b"completes" not in written or not written.endswith(b"\n"):
            written += os.read(ours, 1 << 16)
        running.kill()
    os.close(ours)
    shown = written.decode()
    assert ("\x1b[32msucceeded" in shown, "\x1b[" in shown) == (not colour, not colour)
    (said,) = [each for each in plain(shown).splitlines() if "greet.wide #" in each]
    assert cell_len(said) <= 120
    assert "…  completes 1 succeeded" in said


ALL_ARE_OLD = """
from busway.gateway.cli import following, main

following.BEHIND, following.NOTE_EVERY = 0.0, 1e9
main()
"""


def test_one_line_says_that_the_gateway_is_away_and_one_that_it_is_back(service: Service) -> None:
    with tailing(service, "greet.*", program=("-c", ALL_ARE_OLD)) as running:
        assert running.stderr
        service.kill()
        assert "is away" in running.stderr.readline()
        service.start()
        assert "is back" in running.stderr.readline()
        publish(service, "greet.again", 1)
        assert "greet.again" in line(running)
        running.send_signal(signal.SIGINT)
        notes = running.stderr.read().splitlines()
        assert running.wait(PATIENCE) == 0
        assert [note.split(" --after")[0] for note in notes] == ["resume with"]


def test_the_last_results_over_http(service: Service) -> None:
    publish(service, "greet.http", 3, correlationid="http")
    page = service.get("/v1/results", params={"last": 2, "correlationid": "http"}).json()
    assert [item["data"][1] for item in page["items"]] == [1, 2]
    older = service.get(
        "/v1/results", params={"last": 9, "before": page["next"], "types": "greet.http"}
    ).json()
    assert [item["data"][1] for item in older["items"]] == [0]
    after = service.get("/v1/results", params={"after": page["cursor"], "filter": '{"exact": {"type": "x"}}'})
    assert (after.status_code, after.json()["items"]) == (200, [])
    for wrong in (
        {"last": 0},
        {"last": 1, "after": page["cursor"]},
        {"before": page["cursor"]},
        {"filter": "{"},
    ):
        assert service.get("/v1/results", params=wrong).status_code == 422
    assert service.get("/v1/results", params={"last": 1, "before": "x"}).status_code == 400
    until(lambda: service.unfinished() == 0, "the end of all runs")
