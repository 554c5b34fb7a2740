"""What a worker's end means for each attempt that it had not answered. Pure: it decides, others obey."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from enum import Enum, auto


class Standing(Enum):
    """How far an unanswered attempt had come."""

    UNSTARTED = auto()
    RUNNING = auto()
    RETURNED = auto()  # its target had returned, its answer was still to be sent
    SETTLED = auto()  # reported already (timed out, cancelled) but perhaps still running
    OVERDUE = auto()  # its time was up or its memory exceeded, the worker was killed for it


class Verdict(Enum):
    """What becomes of the attempt."""

    NOTHING = auto()
    RETURN = auto()
    CHARGE = auto()
    GIVE_UP = auto()
    LOSE = auto()
    LOSE_ALONE = auto()


_CERTAIN = {
    Standing.SETTLED: Verdict.NOTHING,
    Standing.UNSTARTED: Verdict.RETURN,
    Standing.OVERDUE: Verdict.GIVE_UP,
}
_SUSPECT = {Standing.RUNNING, Standing.SETTLED, Standing.OVERDUE}


def verdicts(standings: Iterable[Standing], *, killed: bool, alone: bool) -> list[Verdict]:
    """Decide for each attempt.

    Args:
        standings: of all attempts that the worker had not answered.
        killed: the gateway killed it, so that none is to blame but those it was killed for.
        alone: the worker was made for one attempt, that had seen a worker die before.
    """
    standings = list(standings)
    suspects = sum(standing in _SUSPECT for standing in standings)
    return [_verdict(s, suspects, killed, alone) for s in standings]


def _verdict(standing: Standing, suspects: int, killed: bool, alone: bool) -> Verdict:
    if standing in _CERTAIN:
        return _CERTAIN[standing]
    if killed:
        return Verdict.LOSE
    if alone:
        return Verdict.CHARGE
    if standing is Standing.RUNNING:
        return Verdict.CHARGE if suspects == 1 else Verdict.LOSE_ALONE
    # It had returned. If one was running, that one is to blame; else it may have left a time bomb.
    return Verdict.LOSE if suspects else Verdict.LOSE_ALONE


def brief_cause(status: int | None) -> str:
    """Name how a process ended, from its wait status, as a word to count by."""
    if status is None:
        return "unknown"
    code = status & 0x7F
    if code == 0:
        return f"exit {status >> 8}"
    return signal.Signals(code).name if code in set(signal.Signals) else f"signal {code}"


def cause_of(status: int | None) -> str:
    """Say how a process ended, from its wait status; None: nobody could tell."""
    if status is None:
        return "ended, nobody could tell how"
    code = status & 0x7F
    if code == 0:
        return f"exited with status {status >> 8}"
    name = signal.Signals(code).name if code in set(signal.Signals) else f"signal {code}"
    note = " (out of memory, or by hand)" if code == signal.SIGKILL else ""
    return f"killed by {name}{note}"
