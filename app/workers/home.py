"""What a worker is good for, and who it belongs to."""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING, Protocol

from app.workers.base import WorkerReport
from app.workers.flight import Flight
from app.workers.wire import Spawn

if TYPE_CHECKING:
    from app.workers.worker import Worker


class State(Enum):
    """What a worker is good for."""

    BOOTING = auto()
    READY = auto()
    LEAVING = auto()  # takes no new work, ends when it has none
    RETIRED = auto()  # has an attempt that does not end; killed when its siblings are done
    ENDING = auto()  # told to end, or killed
    DEAD = auto()


ALIVE = {State.BOOTING, State.READY, State.LEAVING}


class Home(Protocol):
    """Who the worker belongs to."""

    name: str

    def launch(self, worker: Worker, spawn: Spawn, descriptors: list[int]) -> None:
        """Have the zygote start the worker's process; the descriptors are copied."""

    def ready(self, worker: Worker) -> None:
        """The worker can take attempts."""

    def reported(self, worker: Worker, told: list[WorkerReport], left: list[Flight]) -> None:
        """The worker answered; `left` are the attempts that it no longer has."""

    def settled(self, flight: Flight) -> None:
        """An attempt is given up while it may still be running."""

    def retired(self, worker: Worker) -> None:
        """The worker takes no new work and needs a replacement."""

    def outgrown(self, worker: Worker) -> None:
        """The worker has grown too much and is to be replaced; it may go on until then."""

    def gone(self, worker: Worker, told: list[WorkerReport], left: list[Flight]) -> None:
        """The worker is dead and closed."""
