"""Three nodes on one PostgreSQL database, with NATS, on this machine: `make cluster`.

Both servers come with the development packages, and their data is in temporary folders. Ctrl-C stops all of
it: the nodes drain first. A second Ctrl-C ends the nodes at once.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from typing import NamedTuple

from tests.servers.nats import NatsServer
from tests.servers.postgres import PostgresServer, end_with_parent

NODES = 3


class Said(NamedTuple):
    """What a node printed, or that it ended (`line` is None), or that a signal came (`node` is None)."""

    node: Node | None
    line: str | None


class Node:
    """A gateway in a process of its own."""

    def __init__(self, name: str, options: list[str]) -> None:
        self.name, self.address, self.last = name, "", ""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BUSWAY_")}
        # In a session of its own, so that Ctrl-C reaches it once: from this program.
        self.process = subprocess.Popen(
            [sys.executable, "-m", "busway", "serve", f"--node-name={name}", "--log-format=text", *options],
            env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, errors="replace", start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - no thread runs yet
        )  # fmt: skip

    def read(self, said: queue.SimpleQueue[Said]) -> None:
        """Put each line there, and that the node ended."""
        for line in self.process.stdout or ():
            said.put(Said(self, line.rstrip()))
        self.process.wait()
        said.put(Said(self, None))

    def signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)


class Cluster:
    """The nodes, and what they print."""

    def __init__(self, nodes: list[Node], said: queue.SimpleQueue[Said]) -> None:
        self._nodes, self._said = nodes, said
        self._running = list(nodes)
        self._status = 0
        self._stopping = self._started = False

    def run(self) -> int:
        """Show what the nodes print until all have ended. Return the exit status."""
        for node in self._nodes:
            threading.Thread(target=node.read, args=(self._said,), daemon=True).start()
        while self._running:
            node, line = self._said.get()
            if node is None:
                self._stop(signal.SIGKILL if self._stopping else signal.SIGTERM)
            elif line is None:
                self._ended(node)
            else:
                self._printed(node, line)
        return self._status

    def _stop(self, number: int) -> None:
        self._stopping = True
        for node in self._running:
            node.signal(number)

    def _printed(self, node: Node, line: str) -> None:
        node.last = line
        if not node.address and line.startswith("busway http"):
            node.address = line.split()[1]
        else:
            say(f"{node.name} | {line}")
        if not self._started and all(each.address for each in self._nodes):
            self._started = True
            self._introduce()

    def _ended(self, node: Node) -> None:
        self._running.remove(node)
        if self._stopping:
            return
        if self._started:
            say(f"cluster: {node.name} ended with status {node.process.returncode}")
            self._status = 0 if self._running else 1
        else:
            say(f"cluster: {node.name} did not start: {node.last}")
            self._status = 1
            self._stop(signal.SIGTERM)

    def _introduce(self) -> None:
        addresses = [node.address for node in self._nodes]
        say(
            "\n".join(f"{node.name}  {node.address}" for node in self._nodes)
            + "\nResults come at each node, wherever the event was published:\n"
            + f"  .venv/bin/busway tail --url {addresses[0]}\n"
            + f"  .venv/bin/busway publish order.created item=book quantity:=2 --url {addresses[1]}\n"
            + f"  .venv/bin/busway nodes --url {addresses[2]}\n"
            + "Ctrl-C stops all of it."
        )


def say(text: str) -> None:
    """Print it at once."""
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main(words: list[str]) -> int:
    """Start it, and wait until it has ended.

    Args:
        words: options. `--port` is that of the first node. The nodes get all others.
    """
    parser = argparse.ArgumentParser(add_help=False)
    parser.add_argument("--port", type=int, default=8000)
    chosen, options = parser.parse_known_args(words)
    said: queue.SimpleQueue[Said] = queue.SimpleQueue()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: said.put(Said(None, None)))
    with contextlib.ExitStack() as stack:
        name = "PostgreSQL"
        try:
            database = PostgresServer()
            stack.callback(database.close)
            url = database.start().create("busway")
            name = "NATS"
            broker = NatsServer()
            stack.callback(broker.close)
            broker.start()
        except (AssertionError, OSError, subprocess.CalledProcessError) as problem:
            return refused(name, problem, said)
        if not said.empty():
            return 0
        say(f"PostgreSQL  {url}\nNATS  {broker.url()}")
        shared = [f"--database-url={url}", f"--broker-url={broker.url()}", *options]
        ports = [chosen.port and chosen.port + n for n in range(NODES)]
        nodes = [Node(f"node{n}", [f"--port={port}", *shared]) for n, port in enumerate(ports, 1)]
        return Cluster(nodes, said).run()


def refused(name: str, problem: Exception, said: queue.SimpleQueue[Said]) -> int:
    """Say why a server did not start, unless it was stopped. Return the exit status."""
    if not said.empty():
        return 0
    output = getattr(problem, "stderr", None) or str(problem).encode()
    lines = output.decode(errors="replace").strip().splitlines() or [type(problem).__name__]
    say(f"cluster: {name} did not start: {lines[-1]}")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
