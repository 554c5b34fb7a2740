"""What Busway does for an event, counted and not timed, is not more than it was.

A real gateway with its committer and one worker gets the same events over loopback, and a WebSocket
subscriber hears each result: one by one, each when the result of the one before was delivered, and 1,000 in
one request. `counting.py` counts in three ways. `expected.json` says what should come out, how far a figure
may be above it, and how far five runs were apart when it was recorded. What is above is counted again: how a
busy machine groups work is chance. What is below is told when all tests are done, with the command that
records it.

What holds where: encodings, decodings, SQL statements, commits, log pages, sends, receives, file writes and
syncs are compared with the same margin on every Python. Calls, system calls and machine instructions are
compared with a wider one where Python, its compiler, libc or SQLite are not those of the recording (`python`
in the file, which is what CI has), and bytecode instructions only where they are.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.work.counting import COUNTERS, Found
from tests.work.figures import LESS, ONE_BY_ONE, Figure, Recorded, Verdict, python, verdict

ATTEMPTS = 3
TOOLS = {"by strace": "strace", "by callgrind": "valgrind"}


@pytest.mark.long
@pytest.mark.parametrize("way", COUNTERS)
def test_an_event_costs_no_more_than_it_did(
    way: str, tmp_path: Path, record_property: Callable[[str, object], None]
) -> None:
    if way in TOOLS:
        need(TOOLS[way])
    recorded = Recorded.load()
    expected, elsewhere = recorded.counted[way], recorded.python != python()
    found: Found = {}
    for attempt in range(ATTEMPTS):
        (folder := tmp_path / str(attempt)).mkdir()
        counted = COUNTERS[way](folder)
        found = {figure: min(count, found.get(figure, count)) for figure, count in counted.items()}
        assert {str(figure) for figure in found} == expected.keys(), (
            "other figures than recorded: `make counted`"
        )
        verdicts = [verdict(f, expected[str(f)], count, elsewhere=elsewhere) for f, count in found.items()]
        worse = [said.worse for said in verdicts if said.worse]
        if not worse:
            break
    for said in verdicts:
        if said.better:
            record_property("note", f"{said.better}, {LESS}")
    if worse:
        pytest.fail("\n\n".join(worse), pytrace=False)


def need(program: str) -> None:
    if shutil.which(program) is None and os.environ.get("CI") != "true":
        pytest.skip(f"no {program} on this machine: install the package {program}")
    assert shutil.which(program), f"CI has no {program}: .ci/run installs the package {program}"


def judged(unit: str, found: float, margin: float, *, elsewhere: bool = False) -> Verdict:
    recorded = {"an_event": 100.0, "margin_percent": margin}
    return verdict(Figure(ONE_BY_ONE, "gateway", unit), recorded, found, elsewhere=elsewhere)


def test_more_fails_with_what_to_do_and_less_is_told() -> None:
    more = judged("encodings", 101, 0).worse
    assert more is not None
    assert "expected: 100, and up to 0 % more" in more
    assert "found:    101.000, +1.0%" in more
    assert "look for what was added" in more
    assert judged("encodings", 99, 0) == (None, "one by one, gateway: encodings: 99.000, was 100, -1.0%")
    assert judged("encodings", 100, 0) == judged("encodings", 103, 3) == Verdict()


def test_another_python_has_a_wider_margin_where_figures_depend_on_it_and_only_there() -> None:
    assert judged("Python calls", 110, 4, elsewhere=True) == Verdict()
    assert judged("Python calls", 130, 4, elsewhere=True).worse
    assert judged("encodings", 101, 0, elsewhere=True).worse
    assert judged("bytecode instructions", 200, 3, elsewhere=True) == Verdict()
