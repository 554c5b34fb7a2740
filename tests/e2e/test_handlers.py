"""Handlers from code and over HTTP: revisions, overrides, pause, deletion, restarts."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests import forked

from .conftest import Serve, Shared
from .service import items, until

CODE = '''
from busway import handler

@handler("a.*", timeout=5, description="first")
def declared(event):
    """Says hello."""
    return "hello"

def free(event, ctx):
    """Can be registered."""
    return ctx.revision

async def waits(event): ...
def yields(event): yield 1
async def streams(event): yield 1
'''
BOTH = """
import os, threading, time
from busway import handler

def here():
    return [os.getpid(), threading.current_thread() is threading.main_thread()]

@handler("t", pool="thread")
def a(event): return here()

@handler("t", pool="process")
def b(event): return here()

def slow(event):
    while not os.path.exists(event.data):
        time.sleep(0.01)
    raise ValueError("so it goes")
"""


def test_targets_are_the_functions_of_the_folder(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("shop.py", CODE)
    service.write("json.py", "from shop import declared as imported\ndef loads(event): return 1\n")
    service.write("_private.py", "def never(event): ...\n")
    service.start()
    targets = service.ok("GET", "/v1/targets")["items"]
    assert [(t["target"], t["kind"], t["doc"]) for t in targets] == [
        ("json:loads", "function", ""),
        ("shop:declared", "function", "Says hello."),
        ("shop:free", "function", "Can be registered."),
        ("shop:streams", "async_generator", ""),
        ("shop:waits", "coroutine", ""),
        ("shop:yields", "generator", ""),
    ]


@pytest.mark.long
def test_an_override_holds_until_it_is_set_to_null_and_over_restarts(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("shop.py", CODE)
    service.start()
    first = service.ok("GET", "/v1/handlers/declared")
    assert (first["revision"], first["source"], first["timeout"], first["description"]) == (
        1,
        "code",
        5,
        "first",
    )
    assert service.ok("PATCH", "/v1/handlers/declared", {"timeout": 9})["revision"] == 2
    assert service.ok("PATCH", "/v1/handlers/declared", {"description": "mine"})["revision"] == 2
    assert service.stop() == 0
    service.start()
    kept = service.ok("GET", "/v1/handlers/declared")
    assert (kept["revision"], kept["timeout"], kept["description"]) == (2, 9, "mine")
    assert service.ok("PATCH", "/v1/handlers/declared", {"timeout": None})["timeout"] == 5
    assert service.stop() == 0
    service.write("shop.py", CODE + "# changed\n")
    service.start()
    assert service.ok("GET", "/v1/handlers/declared")["revision"] == 4
    revisions = service.ok("GET", "/v1/handlers/declared/revisions")["items"]
    assert [(r["revision"], r["timeout"]) for r in revisions] == [(4, 5), (3, 5), (2, 9), (1, 5)]
    assert service.request("DELETE", "/v1/handlers/declared").status_code == 409
    taken = {"name": "declared", "target": "shop:free", "events": ["x"]}
    assert service.post("/v1/handlers", taken).status_code == 409


@pytest.mark.one_node("counts lines of one log")
def test_overrides_are_the_fields_that_differ_from_the_code_and_loading_logs_them(
    make_service: Serve,
) -> None:
    service = make_service(workers=1, log_format="text")
    service.write("shop.py", CODE)
    service.start()
    assert service.ok("GET", "/v1/handlers/declared")["overrides"] == {}
    changed = service.ok("PATCH", "/v1/handlers/declared", {"timeout": 9, "backoff": {"initial": 1}})
    assert changed["overrides"] == {"timeout": 9}  # the backoff is that of the code
    service.ok("POST", "/v1/handlers/declared/pause")
    free = {"name": "mine", "target": "shop:free", "events": ["x"], "timeout": 7}
    assert service.ok("POST", "/v1/handlers", free)["overrides"] == {}
    assert service.stop() == 0
    service.start()
    assert service.ok("GET", "/v1/handlers/declared")["overrides"] == {"timeout": 9, "paused": True}
    said = "override the code: declared (paused, timeout)."
    assert service.logged(said).count(said) == 1
    service.ok("PATCH", "/v1/handlers/declared", {"timeout": None, "paused": None})
    assert service.ok("GET", "/v1/handlers/declared")["overrides"] == {}


MANY = "from busway import handler\n" + "".join(
    f"\n@handler('a')\ndef {name}(event): ...\n" for name in ("one", "two", "three")
)


def test_handlers_without_code_are_one_line_of_log_with_the_command_that_deletes_them(
    make_service: Serve,
) -> None:
    service = make_service(workers=1, log_format="text")
    service.write("many.py", MANY)
    service.start()
    assert service.stop() == 0
    (service.handlers / "many.py").unlink()
    service.write("shop.py", CODE)
    service.start()
    lines = [line for line in service.logged("delete --missing").splitlines() if "one" in line]
    assert len(lines) == 1
    assert "one, three, two" in lines[0]
    assert "`busway delete --missing`" in lines[0]
    listed = {each["name"]: each["missing"] for each in service.ok("GET", "/v1/handlers")["items"]}
    assert listed == {"declared": False, "one": True, "three": True, "two": True}
    command = [sys.executable, "-m", "busway", "delete", "--url", service.url]
    refused = forked.run([*command, "declared"], capture_output=True, text=True, check=False)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "code declares" in refused.stderr
    done = forked.run([*command, "--missing"], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (
        0,
        "".join(f"handler {name} is deleted\n" for name in ("one", "three", "two")),
    )
    assert [each["name"] for each in service.ok("GET", "/v1/handlers")["items"]] == ["declared"]


@pytest.mark.parametrize(
    ("pattern", "type_"),
    [("trip.*.**", "trip.x.x"), ("it's", "it's"), ("order.**", "order.created"), (None, None)],
)
@pytest.mark.one_node("what one process prints")
def test_the_hint_at_start_is_an_event_that_a_handler_takes(
    make_service: Serve, pattern: str | None, type_: str | None
) -> None:
    service = make_service(workers=1)
    if pattern is not None:
        service.write("one.py", f'from busway import handler\n@handler("{pattern}")\ndef one(event): ...\n')
    service.start()
    assert service.process is not None
    assert service.process.stdout is not None
    hints: dict[str, str] = {}
    while "auth" not in hints:
        name, _, hint = service.process.stdout.readline().strip().partition("  ")
        hints[name] = hint
    assert ("try" in hints) is (type_ is not None)
    if type_ is not None:
        done = subprocess.run(hints["try"], shell=True, capture_output=True, text=True, check=True)
        receipt = json.loads(done.stdout)
        assert (receipt["type"], receipt["runs"]) == (type_, 1)


def test_a_handler_made_over_http_runs_pauses_and_goes(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("shop.py", CODE)
    service.start()
    fields = {"name": "mine", "target": "shop:free", "events": ["m.**"], "pool": "thread", "concurrency": 1}
    made = service.ok("POST", "/v1/handlers", fields)
    assert (made["revision"], made["source"], made["placed_in"]["pool"]) == (1, "api", "thread")
    with service.subscribed(handlers=["mine"]) as socket:
        assert service.publish("m.x.y")["runs"] == 1
        assert items(socket, 1)[0]["data"] == 1
        service.ok("POST", "/v1/handlers/mine/pause")
        waiting = [service.publish("m.x")["seq"] for _ in range(3)]
        service.ok("PATCH", "/v1/handlers/mine", {"max_attempts": 2})
        assert service.stop() == 0
    service.start()
    assert service.ok("GET", "/v1/handlers/mine")["paused"] is True
    with service.subscribed(handlers=["mine"]) as socket:
        service.ok("POST", "/v1/handlers/mine/resume")
        assert [(i["event"]["seq"], i["data"]) for i in items(socket, 3)] == [(seq, 2) for seq in waiting]
        service.ok("POST", "/v1/handlers/mine/pause")
        left = service.publish("m.x")["seq"]
        assert service.request("DELETE", "/v1/handlers/mine").status_code == 204
        (item,) = items(socket, 1)
    assert (item["kind"], item["event"]["seq"], item["error"]["type"]) == (
        "cancelled",
        left,
        "HandlerDeleted",
    )
    assert service.get("/v1/handlers/mine").status_code == 404
    assert service.publish("m.x")["runs"] == 0
    assert service.ok("POST", "/v1/handlers", fields)["revision"] == 3


def test_deletion_ends_what_waits_but_not_what_comes_after(shared_service: Shared) -> None:
    service = shared_service(BOTH)
    fields = {"name": "slow", "target": "all:slow", "events": ["slow"], "backoff": {"initial": 3600}}
    service.ok("POST", "/v1/handlers", fields)
    sign = service.folder / "sign"
    running = service.publish("slow", str(sign))["seq"]
    until(lambda: service.runs(state="running"), "the run")
    assert service.request("DELETE", "/v1/handlers/slow").status_code == 204
    service.ok("POST", "/v1/handlers", {**fields, "name": "next", "paused": True})
    new = service.publish("slow", str(sign))["seq"]
    sign.touch()
    run = service.run_of(running)
    assert (run["state"], run["error"]["type"]) == ("cancelled", "HandlerDeleted")
    assert service.ok("GET", f"/v1/events/{new}")["runs"][0]["state"] == "available"


def test_both_pools_run_side_by_side(shared_service: Shared) -> None:
    service = shared_service(BOTH)
    with service.subscribed(types=["t"]) as socket:
        service.publish("t")
        got = {i["handler"]: i for i in items(socket, 2)}
    assert got["a"]["data"][0] != got["b"]["data"][0]
    assert (got["a"]["data"][1], got["b"]["data"][1]) == (False, True)
    assert {i["completes"] and i["completes"]["succeeded"] for i in got.values()} == {None, 2}


@pytest.mark.long
def test_a_handler_whose_file_breaks_goes_on_matching_and_its_runs_wait(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("shop.py", CODE)
    service.start()
    assert service.stop() == 0
    service.write("shop.py", "1 / 0\n")
    service.start()
    seq = service.publish("a.x")["seq"]
    assert service.ok("GET", "/v1/handlers/declared")["waits_because"] == "shop.py does not import"
    assert service.ok("GET", f"/v1/events/{seq}")["runs"][0]["state"] == "available"
    assert service.stop() == 0
    service.write("shop.py", CODE)
    service.start()
    assert until(lambda: service.run_of(seq)["state"] == "succeeded", "the run")


def test_a_handler_that_code_no_longer_declares_keeps_its_runs(make_service: Serve) -> None:
    service = make_service(workers=1)
    service.write("shop.py", CODE)
    service.start()
    service.ok("POST", "/v1/handlers/declared/pause")
    seq = service.publish("a.x")["seq"]
    assert service.stop() == 0
    service.write("shop.py", "def other(event): ...\n")
    service.start()
    assert "no longer declares" in service.ok("GET", "/v1/handlers/declared")["waits_because"]
    assert service.publish("a.x")["runs"] == 0
    assert service.ok("GET", f"/v1/events/{seq}")["runs"][0]["state"] == "available"
    assert service.request("DELETE", "/v1/handlers/declared").status_code == 204
    assert service.run_of(seq)["state"] == "cancelled"
