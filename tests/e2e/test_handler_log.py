"""What happens in handlers is seen where the gateway runs: output as it comes, and why attempts failed."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import threading
from pathlib import Path
from typing import Any

import pytest

from .conftest import Serve, Shared
from .service import PATIENCE, Service, clean_environment, until

pytestmark = pytest.mark.one_database("what handlers write to the log")

CODE = """
import asyncio, json, logging, os, sys, time
from pathlib import Path
from busway import Retry, handler

log = logging.getLogger("shop.mail")
library = logging.getLogger("library")
library.addHandler(logging.NullHandler())
print("at import")

def wait(path):
    while not Path(path).exists():
        time.sleep(0.005)

@handler("prints")
def prints(event):
    print("printed", event.data["word"])
    wait(event.data["sign"])

@handler("streams")
async def streams(event):
    print("streamed", event.data["word"], file=sys.stderr)
    while not Path(event.data["sign"]).exists():
        await asyncio.sleep(0.005)
    print("unfinished", event.data["word"], end="")

@handler("logs")
def logs(event, ctx):
    logging.info("at the root")
    log.warning("no address\\nof %s", "Ada")
    log.debug("left out")
    library.info("of a library")
    ctx.log.debug("my own")
    try:
        json.loads("{")
    except ValueError:
        log.exception("bad")

@handler("fails", max_attempts=2, backoff={"initial": 0.05, "jitter": 0})
def fails(event, ctx):
    print("before it failed")
    ctx.publish("not a type")

@handler("many", max_attempts=1)
def many(event):
    raise ValueError(event.data)

@handler("floods")
def floods(event):
    for n in range(100_000):
        print("flood", n)

@handler("retries", max_attempts=2)
def retries(event):
    raise Retry(after=0.05)

@handler("slow", timeout=0.2, max_attempts=1)
def slow(event):
    print("before it timed out")
    wait("/nowhere")

@handler("dies", max_attempts=1)
def dies(event):
    print("last words")
    os._exit(3)

@handler("colors", max_attempts=1)
def colors(event):
    print("\\x1b[31mred\\x1b[0m \\x1b]0;title\\x07bell\\x07 10%\\r100%")
    raise ValueError("\\x1b[2Jcleared")
"""


@pytest.fixture(params=["process", "thread"])
def service(request: pytest.FixtureRequest, shared_service: Shared) -> Service:
    return shared_service(CODE, pool=request.param)


def records(service: Service, **fields: Any) -> list[dict[str, Any]]:
    whole = service.log.read_text().rpartition("\n")[0]  # the last line may be half written
    found = [json.loads(line) for line in whole.splitlines()]
    return [each for each in found if fields.items() <= each.items()]


def several(service: Service, count: int, **fields: Any) -> list[dict[str, Any]]:
    """Wait for so many records: a thread of the gateway writes them."""
    until(lambda: len(records(service, **fields)) >= count, f"{count} records with {fields}")
    return records(service, **fields)


def lines(service: Service, run: int, count: int) -> list[str]:
    return [each["event"] for each in several(service, count, logger="busway.handlers", run=run)]


def failures(service: Service, run: int, count: int = 1) -> list[dict[str, Any]]:
    return several(service, count, logger="busway.runs", run=run)


@pytest.mark.parametrize(("handler", "says"), [("prints", "printed"), ("streams", "streamed")])
def test_output_is_logged_while_the_attempt_runs(
    service: Service, tmp_path: Path, handler: str, says: str
) -> None:
    sign, word = tmp_path / "sign", f"{handler} {service.options['pool']}"
    receipt = service.publish(handler, {"word": word, "sign": str(sign)})
    until(lambda: records(service, event=f"{says} {word}"), "the line")
    (record,) = records(service, event=f"{says} {word}")
    assert (record["handler"], record["attempt"], record["level"]) == (handler, 1, "info")
    assert service.ok("GET", f"/v1/runs/{record['run']}")["state"] not in {"succeeded", "dead"}
    sign.touch()
    run = service.run_of(receipt["seq"])
    assert (run["state"], run["id"]) == ("succeeded", record["run"])
    stored = run["attempts"][0]["log"].splitlines()
    assert lines(service, run["id"], len(stored)) == stored


def test_logging_keeps_level_and_logger_and_is_stored(service: Service) -> None:
    run = service.run_of(service.publish("logs")["seq"])
    stored = run["attempts"][0]["log"].splitlines()
    assert stored[:6] == [
        "INFO root: at the root",
        "WARNING shop.mail: no address",
        "    of Ada",
        "INFO library: of a library",
        "DEBUG logs: my own",
        "ERROR shop.mail: bad",
    ]
    assert stored[6] == "    Traceback (most recent call last):"
    shown = [line for line in stored if not line.startswith("DEBUG")]
    written = several(service, len(shown), logger="busway.handlers", run=run["id"])
    assert [record["event"] for record in written] == shown
    levels = ["info", "warning", "warning", "info", *["error"] * (len(shown) - 4)]
    assert [record["level"] for record in written] == levels


def test_each_failed_attempt_is_logged_with_its_next_one(service: Service) -> None:
    receipt = service.publish("fails")
    run = service.run_of(receipt["seq"])
    first, last = failures(service, run["id"], 2)
    error = run["attempts"][0]["error"]
    assert first["event"].startswith(f"fails run {run['id']}: attempt 1 of 2 failed: ValueError: type: ")
    assert "; next attempt in 0.05 s (event " in first["event"]
    assert "; the run is dead, no next attempt (event " in last["event"]
    assert {**first, **last} | {"timestamp": "", "event": ""} == {
        "handler": "fails", "run": run["id"], "attempt": 2, "max_attempts": 2, "outcome": "failed",
        "state": "dead", "next_attempt_in": None, "seq": receipt["seq"], "type": "fails",
        "event_id": receipt["id"],
        "error": {"type": "ValueError", "message": error["message"]}, "traceback": error["traceback"],
        "output": "before it failed\n", "level": "error", "logger": "busway.runs",
        "timestamp": "", "event": "",
    }  # fmt: skip
    assert (first["level"], first["state"], first["next_attempt_in"]) == ("warning", "retryable", 0.05)
    frames = [line for line in error["traceback"].splitlines() if line.startswith("  File")]
    assert [frame.rpartition(" ")[2] for frame in frames] == ["fails"], "frames of busway are left out"
    assert run["error"] == run["attempts"][-1]["error"]
    assert service.runs(handler="fails")[0]["error"]["traceback"] is None


def test_lines_name_event_run_and_trace_without_traces_being_on(service: Service) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    receipt = service.publish("fails", traceparent=f"00-{trace}-00f067aa0ba902b7-00")
    run = service.run_of(receipt["seq"])
    names = {"trace_id": trace, "event_id": receipt["id"], "run": run["id"], "handler": "fails"}
    assert {each["event"] for each in several(service, 2, logger="busway.handlers", **names)} == {
        "before it failed"
    }
    assert all(
        f"trace {trace}" in each["event"] for each in several(service, 2, logger="busway.runs", **names)
    )


@pytest.mark.parametrize(
    ("handler", "says"),
    [("slow", "timed out: it ran longer than 0.2 s"), ("dies", "failed: WorkerDied: exited with status 3")],
)
def test_an_attempt_that_is_ended_from_outside_is_logged(service: Service, handler: str, says: str) -> None:
    run = service.run_of(service.publish(handler)["seq"])
    (failure,) = failures(service, run["id"])
    assert says in failure["event"]
    (line,) = lines(service, run["id"], 1)
    assert (line + "\n", failure["output"]) == (run["attempts"][-1]["log"],) * 2


def test_attempts_that_are_lost_with_their_worker_are_logged(shared_service: Shared, tmp_path: Path) -> None:
    service, sign = shared_service(CODE, pool="thread"), tmp_path / "sign"
    receipt = service.publish("prints", {"word": "shared", "sign": str(sign)})
    until(lambda: records(service, event="printed shared"), "the attempt that shares a worker")
    service.run_of(service.publish("dies")["seq"])
    sign.touch()
    run = service.run_of(receipt["seq"])
    (lost,) = failures(service, run["id"])
    assert "attempt 1 was lost: exited with status 3; next attempt at once (event " in lost["event"]
    assert (lost["outcome"], lost["state"], lost["level"]) == ("lost", "available", "warning")
    assert lines(service, run["id"], 2) == ["printed shared"] * 2


def test_attempts_that_are_lost_with_the_gateway_are_logged(make_service: Serve, tmp_path: Path) -> None:
    service, sign = make_service(workers=1), tmp_path / "sign"
    service.write("all.py", CODE)
    service.start()
    receipt = service.publish("prints", {"word": "killed", "sign": str(sign)})
    (id_,) = [run["id"] for run in service.runs(event=receipt["seq"])]
    until(lambda: service.ok("GET", f"/v1/runs/{id_}")["state"] == "running", "the attempt")
    service.kill()
    sign.touch()
    service.start()
    (lost,) = failures(service, id_)
    assert lost["event"].startswith(
        f"prints run {id_}: attempt 1 was lost: the gateway ended while it ran; next"
    )
    assert service.run_of(receipt["seq"])["state"] == "succeeded"


def test_a_retry_on_request_has_no_traceback_in_the_log(service: Service) -> None:
    run = service.run_of(service.publish("retries")["seq"])
    assert [failure["traceback"] for failure in failures(service, run["id"], 2)] == [None, None]
    assert run["attempts"][0]["error"]["traceback"]


def test_failures_of_one_handler_do_not_flood_the_log_and_are_counted(service: Service) -> None:
    service.all_finished(
        service.ok("POST", "/v1/events", [{"type": "many", "data": n} for n in range(300)])["items"]
    )

    def counted() -> int:
        written = records(service, logger="busway.runs", handler="many")
        return sum(record.get("left_out", 1) for record in written)

    until(lambda: counted() == 300, "the number of those that were left out")
    assert len(records(service, logger="busway.runs", handler="many")) < 200


def test_output_of_one_handler_does_not_flood_the_log_and_is_counted(service: Service) -> None:
    run = service.run_of(service.publish("floods")["seq"])
    said = until(lambda: records(service, logger="busway.handlers", handler="floods", run=None), "the number")
    assert "lines of output were left out" in said[0]["event"]
    assert len(lines(service, run["id"], 1)) < 5_000
    log = run["attempts"][0]["log"]
    assert 60_000 < len(log) <= 65_536
    assert log.startswith("flood 0\nflood 1\n")


def test_the_output_of_a_test_of_a_handler_is_logged_without_a_run(service: Service) -> None:
    answer = service.ok("POST", "/v1/handlers/logs/test", {"event": {"type": "logs"}})
    written = several(service, 4, logger="busway.handlers", handler="logs", run=0)
    assert "INFO root: at the root" in [record["event"] for record in written]
    assert answer["log"].startswith("INFO root: at the root\n")


def test_output_outside_of_attempts_is_logged_with_its_file(service: Service) -> None:
    assert records(service, event="handlers folder: all.py: at import")


@pytest.mark.long
def test_on_a_terminal_the_log_is_text_that_controls_nothing(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("all.py", CODE)
    master, slave = pty.openpty()
    written = bytearray()

    def read() -> None:
        while True:
            try:
                written.extend(os.read(master, 65_536))
            except OSError:  # the last writer has ended
                return

    reader = threading.Thread(target=read)
    with subprocess.Popen(
        service.command(), stdout=subprocess.PIPE, stderr=slave, text=True,
        env={**clean_environment(), "NO_COLOR": "1"},
    ) as service.process:  # fmt: skip
        os.close(slave)
        reader.start()
        service.announced()
        run = service.run_of(service.publish("colors")["seq"])
        assert service.stop() == 0
    reader.join(PATIENCE)
    os.close(master)
    text = written.decode()
    assert f"INFO    colors run {run['id']} | 100%" in text
    assert (
        f"ERROR   colors run {run['id']}: attempt 1 of 1 failed: ValueError: cleared; the run is dead" in text
    )
    assert '\n      File "' in text, "the traceback, indented"
    assert "\x1b" not in text
    assert "\x07" not in text


def test_the_level_holds_for_handlers_too(shared_service: Shared) -> None:
    service = shared_service(CODE, log_format="text", log_level="error")
    run = service.run_of(service.publish("fails")["seq"])
    service.run_of(service.publish("logs")["seq"])
    until(lambda: "| shop.mail: bad" in service.log.read_text(), "the line of level ERROR")
    text = service.log.read_text()
    assert f"fails run {run['id']}: attempt 2 of 2" in text
    for hidden in ("attempt 1 of 2", "before it failed", "no address", "at the root"):
        assert hidden not in text
