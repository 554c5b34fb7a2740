"""Progress without a terminal: lines that become rare. On a terminal: tests/e2e/test_every_command.py."""

from __future__ import annotations

import time
from types import SimpleNamespace

import pytest
from busway.gateway.cli import progress
from busway.gateway.cli.progress import BYTES, LONGEST_PAUSE


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A clock that stands still but when the test moves it."""
    made = SimpleNamespace(now=1000.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: made.now))
    return made


def test_lines_have_rate_and_time_left_and_become_rare(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress("exporting", "rows") as show:
        for second in range(1, 601):
            clock.now += 1
            show(100 * second, 120_000)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "exporting: 0%, 500 rows, 100/s, 19m left"
    assert lines[-1].startswith("exporting: 4")
    assert len(lines) == 4 + (600 - 75) // LONGEST_PAUSE


def test_bytes_streams_and_what_stands_still(
    clock: SimpleNamespace, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.progress("copying", BYTES) as show:
        clock.now += 10
        show(5 << 20, 10 << 20)
        clock.now += 10
        show(5 << 20, 10 << 20)
    with progress.progress("sending", "lines", bounded=False) as show:
        clock.now += 10
        show(100, None, 20)
    with progress.progress("replaying", "runs") as show:
        clock.now += 10
        show(0.5, 1, 5, "5 of 10 runs")
    assert capsys.readouterr().err.splitlines() == [
        "copying: 50%, 5.0 MiB, 512.0 KiB/s, 10s left",
        "copying: 50%, 5.0 MiB, 256.0 KiB/s, 20s left",
        "sending: 20 lines, 2.0/s",
        "replaying: 50%, 5 of 10 runs, 0.5/s, 10s left",
    ]


def test_a_wait_is_told_only_if_it_is_long(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with progress.waiting("checking"):
        pass
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(progress, "FIRST_NOTE", 0.0)
    monkeypatch.setattr(progress, "LONGEST_PAUSE", 0.01)
    said = ""
    with progress.waiting("checking"):
        while "so far" not in said:
            time.sleep(0.001)
            said += capsys.readouterr().err
    assert said.startswith("checking, 0s so far\n")
    with progress.waiting("checking", quiet=True):
        pass
