"""What Busway does for an event, counted and not timed, is what it was: not more, and not less unnoticed.

A real gateway with its committer and one worker gets the same events over loopback, and a WebSocket
subscriber hears each result: one by one, each when the result of the one before was delivered, and 1,000 in
one request. `counting.py` counts in three ways. `expected.json` says what should come out, how far a figure
may be off, and how far five runs were apart when it was recorded.

What holds where: encodings, decodings, SQL statements, commits, log pages, sends, receives, file writes and
syncs are compared with the same margin on every Python. Calls, system calls and machine instructions are
compared with a wider one where Python, its compiler, libc or SQLite are not those of the recording (`python`
in the file, which is what CI has), and bytecode instructions only where they are.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from tests.work.counting import COUNTERS
from tests.work.figures import ONE_BY_ONE, Figure, Recorded, python, verdict

TOOLS = {"by strace": "strace", "by callgrind": "valgrind"}


@pytest.mark.long
@pytest.mark.parametrize("way", COUNTERS)
def test_an_event_costs_what_it_did(way: str, tmp_path: Path) -> None:
    if way in TOOLS:
        need(TOOLS[way])
    recorded = Recorded.load()
    expected, elsewhere = recorded.counted[way], recorded.python != python()
    found = COUNTERS[way](tmp_path)
    assert {str(figure) for figure in found} == expected.keys(), "other figures than recorded: `make counted`"
    verdicts = [verdict(f, expected[str(f)], count, elsewhere=elsewhere) for f, count in found.items()]
    wrong = [text for text in verdicts if text is not None]
    if wrong:
        pytest.fail("\n\n".join(wrong), pytrace=False)


def need(program: str) -> None:
    if shutil.which(program) is None and os.environ.get("CI") != "true":
        pytest.skip(f"no {program} on this machine: install the package {program}")
    assert shutil.which(program), f"CI has no {program}: .ci/run installs the package {program}"


def judged(unit: str, found: float, margin: float, *, elsewhere: bool = False) -> str:
    recorded = {"an_event": 100.0, "margin_percent": margin}
    said = verdict(Figure(ONE_BY_ONE, "gateway", unit), recorded, found, elsewhere=elsewhere)
    return said or "as expected"


def test_more_and_less_are_told_with_what_to_do() -> None:
    more = judged("encodings", 101, 0)
    assert "expected: 100, give or take 0 %" in more
    assert "found:    101.000, +1.0%" in more
    assert "look for what was added" in more
    assert "so that the gain is kept" in judged("encodings", 99, 0)
    assert judged("encodings", 100, 0) == judged("encodings", 103, 3) == "as expected"


def test_another_python_has_a_wider_margin_where_figures_depend_on_it_and_only_there() -> None:
    assert judged("Python calls", 110, 4, elsewhere=True) == "as expected"
    assert judged("Python calls", 130, 4, elsewhere=True) != "as expected"
    assert judged("encodings", 101, 0, elsewhere=True) != "as expected"
    assert judged("bytecode instructions", 200, 3, elsewhere=True) == "as expected"
