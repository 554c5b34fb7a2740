"""What a worker and the gateway share: a socket, a page of memory and an output pipe."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Callable

from busway.gateway.channel import Channel
from busway.gateway.executors.python.host.child_output import ChildOutput
from busway.gateway.executors.python.wire.slots import Page, create


class Ends:
    """The gateway's ends, and those of the worker's process until it has them.

    Args:
        name: the worker's name in the log.
        seats: of the page.
        connect: makes the channel over the gateway's socket.

    Raises:
        OSError: there are no descriptors or no memory. Nothing is left open.
    """

    def __init__(self, name: str, seats: int, connect: Callable[[socket.socket], Channel]) -> None:
        with contextlib.ExitStack() as undo:
            ours, theirs = socket.socketpair()
            undo.callback(ours.close)
            undo.callback(theirs.close)
            read_end, write_end = os.pipe()
            undo.callback(os.close, write_end)
            self.output = ChildOutput(read_end, name)
            undo.callback(self.output.close)
            self.page = Page(create(seats), seats)
            undo.callback(self.page.close)
            self.channel = connect(ours)
            undo.pop_all()
        self._theirs = (theirs.detach(), write_end)

    @property
    def given(self) -> list[int]:
        """The descriptors for the worker's process: socket, page, output."""
        theirs, write_end = self._theirs
        return [theirs, self.page.descriptor, write_end]

    def handed_over(self) -> None:
        """Close the process's ends. The zygote has copies now, or will never get any."""
        for descriptor in self._theirs:
            os.close(descriptor)

    def close(self) -> None:
        """Close the gateway's ends."""
        self.channel.close()
        self.output.close()
        self.page.close()
