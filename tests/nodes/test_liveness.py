"""A node is gone if its row does not change for ten seconds of reads, or if its process has ended."""

import os
import subprocess
import sys

import msgspec
import pytest
from busway.gateway.nodes import liveness
from busway.gateway.nodes.liveness import GONE_AFTER, Liveness, own_row


def node(id_=1, beat=0, *, elsewhere=True, **fields):
    row = msgspec.structs.replace(own_row("n", "all", "1", 0), id=id_, beat=beat)
    return msgspec.structs.replace(row, boot="another machine" if elsewhere else row.boot, **fields)


def test_a_row_that_changes_is_alive_and_one_that_does_not_is_gone_after_ten_seconds():
    seen = Liveness()
    for second in range(int(GONE_AFTER)):
        seen.read([node(1, beat=second), node(2, beat=7)], float(second))
        assert not seen.is_gone(node(1))
        assert not seen.is_gone(node(2))
    seen.read([node(1, beat=99), node(2, beat=7)], GONE_AFTER)
    assert not seen.is_gone(node(1))
    assert seen.is_gone(node(2))
    seen.read([node(2, beat=8)], GONE_AFTER + 1)
    assert not seen.is_gone(node(2)), "it renewed its row"


@pytest.mark.parametrize("told", [True, False])
def test_time_without_reads_takes_nobody_for_gone(told):
    """Whether the reader noticed an outage, or was stopped itself: the node could not be seen."""
    seen = Liveness()
    for second in (0.0, 1.0, 2.0):
        seen.read([node(beat=7)], second)
    if told:
        seen.failed()
    seen.read([node(beat=7)], 3_600.0)
    assert not seen.is_gone(node())


def test_clocks_of_other_machines_do_not_matter():
    seen = Liveness()
    for second in range(30):
        seen.read([node(beat=second, opened_at=1 << 60)], float(second))
    assert not seen.is_gone(node())


def test_a_process_of_this_machine_that_has_ended_is_gone_at_once():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        row = node(elsewhere=False, pid=process.pid, pid_started=liveness.started(process.pid))
        assert not Liveness().is_gone(row)
        assert Liveness().is_gone(msgspec.structs.replace(row, pid_started=row.pid_started - 1)), (
            "another one"
        )
        process.kill()
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert Liveness().is_gone(row), "its parent has not asked for its status yet"
    assert Liveness().is_gone(row)
    assert not Liveness().is_gone(msgspec.structs.replace(row, boot="another machine"))
    assert not Liveness().is_gone(msgspec.structs.replace(row, pid_namespace=1))


def test_a_process_that_cannot_be_looked_at_is_not_gone(monkeypatch):
    """As with `hidepid`, where processes of other users have no files."""
    row = node(elsewhere=False)
    monkeypatch.setattr(liveness, "_PROCESSES", liveness.Path("/nonexistent"))
    assert not Liveness().is_gone(row)
