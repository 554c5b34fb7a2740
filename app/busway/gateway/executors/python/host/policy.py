"""Decide what a worker's death means for each of its unanswered attempts. Pure: callers act on the result."""

from __future__ import annotations

import itertools
import re
import signal
from collections.abc import Iterable
from enum import Enum, auto
from pathlib import Path


class AttemptPhase(Enum):
    """How far an unanswered attempt was when its worker died."""

    UNSTARTED = auto()
    RUNNING = auto()
    RETURNED = auto()  # its target had returned, its report was not sent yet
    SETTLED = auto()  # reported already (timed out, cancelled), but it may still run
    OVERDUE = auto()  # it timed out or took too much memory, and the worker was killed for it


class DeathVerdict(Enum):
    """What happens to the attempt."""

    NOTHING = auto()
    RETURN = auto()
    CHARGE = auto()
    GIVE_UP = auto()
    LOSE = auto()
    LOSE_ALONE = auto()


_CERTAIN = {
    AttemptPhase.SETTLED: DeathVerdict.NOTHING,
    AttemptPhase.UNSTARTED: DeathVerdict.RETURN,
    AttemptPhase.OVERDUE: DeathVerdict.GIVE_UP,
}
_SUSPECT = {AttemptPhase.RUNNING, AttemptPhase.SETTLED, AttemptPhase.OVERDUE}


def verdicts(phases: Iterable[AttemptPhase], *, killed: bool, alone: bool) -> list[DeathVerdict]:
    """Decide for each attempt.

    Args:
        phases: of all attempts that the worker had not reported.
        killed: the gateway killed it, so only the attempts that it was killed for are to blame.
        alone: it was started for one attempt of a run that had seen a worker die before.
    """
    phases = list(phases)
    suspects = sum(phase in _SUSPECT for phase in phases)
    return [_verdict(s, suspects, killed, alone) for s in phases]


def _verdict(phase: AttemptPhase, suspects: int, killed: bool, alone: bool) -> DeathVerdict:
    if phase is AttemptPhase.UNSTARTED and alone and not killed:
        return DeathVerdict.LOSE_ALONE  # handler code can hide that it has started
    if phase in _CERTAIN:
        return _CERTAIN[phase]
    if killed:
        return DeathVerdict.LOSE
    if alone:
        return DeathVerdict.CHARGE
    if phase is AttemptPhase.RUNNING:
        return DeathVerdict.CHARGE if suspects == 1 else DeathVerdict.LOSE_ALONE
    # It had returned. If another attempt was running, that one is to blame. Otherwise this attempt may
    # have left something behind that killed the worker.
    return DeathVerdict.LOSE if suspects else DeathVerdict.LOSE_ALONE


def brief_cause(status: int | None) -> str:
    """Return how a process ended, from its wait status, as a short label for counters."""
    if status is None:
        return "unknown"
    code = status & 0x7F
    if code == 0:
        return f"exit {status >> 8}"
    return signal.Signals(code).name if code in set(signal.Signals) else f"signal {code}"


def cause_of(status: int | None) -> str:
    """Return how a process ended, from its wait status, as text. None: the status is unknown."""
    if status is None:
        return "ended with an unknown status"
    code = status & 0x7F
    if code == 0:
        return f"exited with status {status >> 8}"
    name = signal.Signals(code).name if code in set(signal.Signals) else f"signal {code}"
    note = " (out of memory, or killed by a user)" if code == signal.SIGKILL else ""
    return f"killed by {name}{note}"


_OURS = (str(Path(__file__).parents[1]), "<frozen importlib", '"<string>"')
_CURRENT = re.compile(r"^Current thread .*$", re.MULTILINE)
_THREAD = re.compile(r"^(?:Current thread|Thread) (0x[0-9a-f]+)", re.MULTILINE)
_MOST = 16 * 1024


def stack_of_thread(dump: str, thread: int) -> str | None:
    """Return the user's frames of a thread in a dump, None if there are none.

    Args:
        dump: written by faulthandler; it may contain several dumps, the newest last.
        thread: the thread's ident.
    """
    starts = [*_THREAD.finditer(dump)]
    ends = [start.start() for start in starts[1:]] + [len(dump)]
    found = None
    for start, end in zip(starts, ends, strict=False):
        if int(start[1], 16) == thread:
            found = dump[start.start() : end]
    return None if found is None else _user_frames(found)


def newest_stack(dump: str) -> str | None:
    """Return the user's frames of the current thread in the newest dump, None if there are none."""
    starts = [*_CURRENT.finditer(dump)]
    return _user_frames(dump[starts[-1].end() :].partition("\n\n")[0]) if starts else None


def _user_frames(stack: str) -> str | None:
    # The innermost frames may be ours (ctx.progress), then come the user's, then the frames that called them.
    frames = [line for line in stack.splitlines() if line.startswith("  ")]
    own = itertools.takewhile(_is_theirs, itertools.dropwhile(lambda line: not _is_theirs(line), frames))
    lines = list(own)
    if not lines:
        return None
    return "\n".join(["Python stack (most recent call first):", *lines])[:_MOST]


def _is_theirs(line: str) -> bool:
    return not any(ours in line for ours in _OURS)
