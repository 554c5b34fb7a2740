"""The states of a worker, and the changes that its pool reacts to."""

from __future__ import annotations

from enum import Enum, auto


class WorkerState(Enum):
    """The state of a worker."""

    BOOTING = auto()
    READY = auto()
    LEAVING = auto()  # accepts no attempts, exits when the present ones end
    RETIRED = auto()  # has an attempt that does not end; killed when the other attempts end
    ENDING = auto()  # exiting, or killed
    DEAD = auto()


ALIVE = {WorkerState.BOOTING, WorkerState.READY, WorkerState.LEAVING}


class WorkerChange(Enum):
    """What a worker's pool must react to."""

    READY = auto()  # it can run attempts
    RELEASED = auto()  # it has fewer attempts than before
    RETIRED = auto()  # it accepts no more attempts and needs a replacement
    OUTGROWN = auto()  # it has grown too much; it continues until it is replaced
    DEAD = auto()  # it is dead and closed, and the outcomes of its attempts were reported
