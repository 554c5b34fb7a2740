"""Stored events run again: live and as a shadow, cancelled, over a kill, and what is refused."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests import forked

from .conftest import Serve, Shared
from .service import PATIENCE, Service, clean_environment, hear, items, say, until

HANDLERS = """
import time
from pathlib import Path
import busway
from busway import handler

MODE = Path(FOLDER)

def mode(name):
    path = MODE / name
    return path.read_text() if path.exists() else ""

@handler("first.*")
def price(event, ctx):
    ctx.publish("second.made", {"n": event.data["n"], "mode": mode("price")})
    return {"n": event.data["n"], "mode": mode("price")}

@handler("second.made")
def after(event):
    return event.data["n"]

@handler("held", "held.**")
def held(event):
    while mode("held"):
        time.sleep(0.02)
    return "let go"

@handler("changes", max_attempts=1)
def changes(event):
    if mode("changes") and event.data["fails"]:
        raise ValueError("new code fails")
    return {"was": event.data["n"], "plus": 1 if mode("changes") and "same" not in event.data else 0}

@handler("kept.*", filter={"exact": {"data.keep": True}}, ordered=True)
def kept(event):
    return event.data["n"]
"""


@pytest.fixture
def service(shared_service: Shared) -> Service:
    return shared_service(HANDLERS, workers=2)


@pytest.fixture
def mode(service: Service) -> Any:
    """Set the text that the handlers of a name read. It is empty at the end of the test."""
    made: set[str] = set()

    def set_mode(name: str, text: str) -> None:
        made.add(name)
        new = service.folder / f".{name}.new"
        new.write_text(text)
        new.replace(service.folder / name)

    yield set_mode
    for name in made:
        (service.folder / name).unlink()


def replay(service: Service, handler: str, **body: Any) -> dict[str, Any]:
    made: dict[str, Any] = service.ok("POST", f"/v1/handlers/{handler}/replay", body)
    return made


def ended(service: Service, replay: int) -> dict[str, Any]:
    """Wait until a replay has ended, and return it."""

    def probe() -> Any:
        found = service.ok("GET", f"/v1/replays/{replay}")
        return found if found["finished_at"] else None

    found: dict[str, Any] = until(probe, f"replay {replay} to end")
    return found


def test_a_replay_runs_the_matching_events_of_its_range_again(service: Service, mode: Any) -> None:
    receipts = [service.publish("first.a", {"n": n}) for n in range(5)]
    other = service.publish("first.b", {"n": 5})
    service.all_finished([*receipts, other])
    head = service.get("/v1/results").json()["cursor"]
    mode("price", "again")
    made = replay(service, "price", types=["first.a"], after=receipts[0]["seq"], before=receipts[4]["seq"])
    assert (made["handler"], made["types"], made["shadow"]) == ("price", ["first.a"], False)
    found = ended(service, made["id"])
    assert (found["state"], found["matched"], found["created"]) == ("done", 3, 3)
    assert found["runs"] == {"succeeded": 3}
    again = [r for r in service.results(after=head, handlers="price") if r["replay"] == made["id"]]
    assert sorted(r["event"]["seq"] for r in again) == [r["seq"] for r in receipts[1:4]]
    assert {r["data"]["mode"] for r in again} == {"again"}
    assert not any(r["completes"] for r in again)  # it completed once
    runs = service.runs(replay=made["id"])
    assert [run["event"] for run in runs] == [r["seq"] for r in receipts[3:0:-1]]
    assert {run["replay"] for run in runs} == {made["id"]}
    # What they published is stored as usual.
    tree = service.ok("GET", f"/v1/events/{receipts[1]['seq']}/tree")
    assert [e["event"]["data"]["mode"] for e in tree["events"]] == ["", "again"]
    assert service.ok("GET", "/v1/replays?handler=price")["items"][0]["id"] == made["id"]


def test_a_shadow_reaches_only_those_who_ask_and_publishes_nothing(service: Service) -> None:
    receipt = service.publish("first.shadow", {"n": 1})
    service.finished(receipt["seq"])
    newest = service.publish("held.no", None)
    service.finished(newest["seq"])
    with service.connect() as socket:
        say(socket, op="subscribe", id="plain", types=["first.shadow", "held.no"])
        assert hear(socket)["op"] == "subscribed"
        with service.subscribed(types=["first.shadow"], shadow=True) as both:
            made = replay(service, "price", types=["first.shadow"], shadow=True)
            found = ended(service, made["id"])
            assert (found["created"], found["shadow"]) == (1, True)
            (item,) = items(both, 1)
            assert (item["replay"], item["data"]["n"]) == (made["id"], 1)
        mark = service.publish("held.no", None)
        (first,) = items(socket, 1)
        assert first["event"]["seq"] == mark["seq"]
    seqs = {"types": "first.shadow"}
    assert len(service.results(**seqs)) == 1
    assert len(service.results(**seqs, shadow="true")) == 2
    (run,) = service.runs(replay=made["id"])
    detail = service.ok("GET", f"/v1/runs/{run['id']}")
    (attempt,) = detail["attempts"]
    assert [(e["type"], e["data"]["n"]) for e in attempt["published"]] == [("second.made", 1)]
    assert mark["seq"] == newest["seq"] + 1  # nothing was stored in between
    event = service.ok("GET", f"/v1/events/{receipt['seq']}/tree")
    assert len(event["events"]) == 1


def test_the_filter_of_the_handler_selects_and_keys_do_not_order(service: Service) -> None:
    receipts = [service.publish("kept.x", {"n": n, "keep": n % 2 == 0}, partitionkey="one") for n in range(6)]
    service.all_finished(receipts)
    made = replay(service, "kept")
    assert made["types"] == ["kept.*"]
    found = ended(service, made["id"])
    assert (found["matched"], found["runs"]) == (3, {"succeeded": 3})
    assert found["position"] == found["before"] - 1


def test_results_are_shown_beside_those_on_record(service: Service, mode: Any) -> None:
    receipts = [service.publish("changes", {"n": n, "fails": n == 1}) for n in range(3)]
    service.all_finished(receipts)
    mode("changes", "new")
    made = replay(service, "changes", shadow=True)
    ended(service, made["id"])
    pairs: list[dict[str, Any]] = []
    after = ""
    while True:  # two a page
        page = service.ok("GET", f"/v1/replays/{made['id']}/results?limit=2{after}")
        pairs += page["items"]
        if page["next"] is None:
            break
        after = f"&after={page['next']}"
    assert [p["event"] for p in pairs] == [r["seq"] for r in receipts]
    assert [p["run"]["state"] for p in pairs] == ["succeeded", "dead", "succeeded"]
    assert {p["recorded_run"]["state"] for p in pairs} == {"succeeded"}
    assert [p["recorded_result"]["data"]["plus"] for p in pairs] == [0, 0, 0]
    assert [p["result"]["data"] and p["result"]["data"]["plus"] for p in pairs] == [1, None, 1]
    assert pairs[1]["result"]["error"] == {"type": "ValueError", "message": "new code fails"}


def test_a_cancelled_replay_creates_no_more_runs_and_cancels_its_own(service: Service, mode: Any) -> None:
    receipts = service.ok("POST", "/v1/events", [{"type": "held"}] * 1500)["items"]
    service.all_finished(receipts)
    mode("held", "yes")
    made = replay(service, "held", types=["held"])
    until(lambda: service.runs(replay=made["id"], state="running"), "a run of the replay to start")
    cancelled = service.ok("POST", f"/v1/replays/{made['id']}/cancel")
    assert cancelled["state"] == "cancelled"
    mode("held", "")
    found = ended(service, made["id"])
    assert found["created"] < 1500
    assert sum(found["runs"].values()) == found["created"]
    assert set(found["runs"]) <= {"cancelled", "succeeded"}
    answer = service.post(f"/v1/replays/{made['id']}/cancel")
    assert answer.status_code == 409


def test_a_paused_handler_lets_its_replay_wait_and_a_deleted_one_ends_it(service: Service) -> None:
    receipts = [service.publish("past.x", n) for n in range(3)]
    spare = {"name": "spare", "target": "all:after", "events": ["past.x"], "paused": True}
    service.ok("POST", "/v1/handlers", spare)
    made = replay(service, "spare")
    until(lambda: len(service.runs(replay=made["id"], state="available")) == 3, "the runs to wait")
    assert service.ok("GET", f"/v1/replays/{made['id']}")["finished_at"] is None
    service.ok("DELETE", "/v1/handlers/spare")
    found = ended(service, made["id"])
    assert (found["state"], found["runs"]) == ("cancelled", {"cancelled": 3})
    runs = service.runs(replay=made["id"])
    assert {run["error"]["type"] for run in runs} == {"HandlerDeleted"}
    assert [run["event"] for run in runs] == [receipt["seq"] for receipt in reversed(receipts)]


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"types": ["a..b"]}, 422, "types"),
        ({"types": []}, 422, "types"),
        ({"after": 5, "before": 5}, 422, "after"),
        ({"after": -1}, 422, "after"),
        ({"before": "x"}, 422, "before"),
        ({"shadow": 1}, 422, "shadow"),
        ({"limit": 1}, 422, "limit"),
        ([], 422, ""),
    ],
)
def test_bad_replays_are_refused(service: Service, body: Any, status: int, words: str) -> None:
    answer = service.post("/v1/handlers/price/replay", body)
    assert (answer.status_code, words in answer.text) == (status, True), answer.text


def test_what_does_not_exist_is_404(service: Service) -> None:
    assert service.post("/v1/handlers/nobody/replay", {}).status_code == 404
    for path in ("/v1/replays/999999", "/v1/replays/999999/results"):
        assert service.get(path).status_code == 404
    assert service.post("/v1/replays/999999/cancel").status_code == 404


def command(service: Service, *words: str, status: int = 0) -> tuple[list[str], str]:
    """Run `busway replay` and return the lines that it printed, and its notes."""
    done = forked.run(
        [sys.executable, "-m", "busway", "replay", *words],
        capture_output=True, text=True, timeout=PATIENCE, check=False,
        env={**clean_environment(), "BUSWAY_URL": service.url},
    )  # fmt: skip
    assert done.returncode == status, (words, done.stdout, done.stderr)
    return done.stdout.splitlines(), done.stderr


def test_the_command_shows_how_a_shadow_differs(service: Service, mode: Any) -> None:
    after = service.publish("nothing")["seq"]
    data = [{"n": 0, "fails": False}, {"n": 1, "fails": True}, {"n": 2, "fails": False, "same": True}]
    receipts = [service.publish("changes", each) for each in data]
    service.all_finished(receipts)
    mode("changes", "new")
    lines, notes = command(service, "changes", "--shadow", f"--after={after}")
    first, second = (receipt["seq"] for receipt in receipts[:2])
    assert lines[:-1] == [
        f"event {first}  differs",
        "  data.plus: 0 -> 1",
        f"event {second}  newly fails",
        '  data: {"was": 1, "plus": 0} -> null',
        '  error: null -> {"type": "ValueError", "message": "new code fails"}',
        "compared with the results on record: 1 same, 1 differs, 1 newly fails",
    ]
    number = re.fullmatch(r"replay (\d+) is done: 2 succeeded, 1 dead", lines[-1])
    assert number, lines
    assert f"replay {number[1]} of changes" in notes
    lines, _ = command(service, "--follow", number[1], "--json")
    *differing, end = map(json.loads, lines)
    assert [(d["event"], d["verdict"]) for d in differing] == [(first, "differs"), (second, "newly fails")]
    assert end["comparison"] == {"same": 1, "differs": 1, "newly fails": 1}
    assert end["runs"] == {"succeeded": 2, "dead": 1}


def test_ctrl_c_leaves_a_replay_running_and_the_command_cancels_it(service: Service, mode: Any) -> None:
    receipt = service.publish("held.c")
    service.finished(receipt["seq"])
    mode("held", "yes")
    with forked.Popen(
        [sys.executable, "-m", "busway", "replay", "held", "--types=held.c"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env={**clean_environment(), "BUSWAY_URL": service.url},
    ) as following:  # fmt: skip
        assert following.stderr is not None
        started = following.stderr.readline()
        (number,) = re.findall(r"replay (\d+) of held", started)
        until(lambda: service.runs(replay=number), "the run of the replay")
        following.send_signal(signal.SIGINT)
        _, notes = following.communicate(timeout=PATIENCE)
    assert f"busway replay --cancel {number}" in notes, notes
    assert service.ok("GET", f"/v1/replays/{number}")["state"] == "running"
    lines, _ = command(service, "--cancel", number)
    assert lines == [f"replay {number} is cancelled: 1 cancelled"]
    mode("held", "")
    _, notes = command(service, "--follow", number, status=1)
    assert f"replay {number} was cancelled" in notes


@pytest.mark.parametrize(
    ("words", "status", "says"),
    [
        ((), 2, "NAME"),
        (("price", "--cancel=1"), 2, "NAME"),
        (("--follow=1", "--shadow"), 2, "--shadow"),
        (("price", "--types=a..b"), 2, "--types"),
        (("price", "--after=5", "--before=5"), 2, "--after"),
        (("nobody",), 1, "nobody"),
        (("../runs",), 1, "../runs"),
        (("--follow=999999",), 1, "999999"),
    ],
)
def test_the_command_says_what_is_wrong(
    service: Service, words: tuple[str, ...], status: int, says: str
) -> None:
    lines, notes = command(service, *words, status=status)
    assert (lines, says in notes) == ([], True), notes
    assert "Traceback" not in notes


@pytest.mark.long
def test_a_replay_goes_on_after_a_kill_and_runs_no_event_twice(make_service: Serve, tmp_path: Path) -> None:
    service = make_service(workers=2)
    service.write("all.py", HANDLERS.replace("FOLDER", repr(str(tmp_path))))
    service.start()
    receipts = service.ok("POST", "/v1/events", [{"type": "first.x", "data": {"n": n}} for n in range(3000)])
    service.all_finished(receipts["items"])
    made = replay(service, "price", types=["first.x"])
    for _ in range(2):
        before = service.ok("GET", f"/v1/replays/{made['id']}")["created"]
        until(
            lambda before=before: service.ok("GET", f"/v1/replays/{made['id']}")["created"] > before,
            "more runs of the replay",
        )
        service.kill()
        service.start()
    found = ended(service, made["id"])
    assert (found["state"], found["created"], found["runs"]) == ("done", 3000, {"succeeded": 3000})
    seqs = [run["event"] for run in service.runs(replay=made["id"])]
    assert len(set(seqs)) == len(seqs) == 3000
