"""`make run` on PostgreSQL, and `make cluster`."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from busway import SyncClient

from tests.servers.chosen import postgres

from .examples import ROOT, MakeRun
from .service import PATIENCE, clean_environment

pytestmark = pytest.mark.one_database("starts PostgreSQL itself")


class MakeCluster:
    """`make cluster` in a process group of its own, as a shell starts it."""

    def __init__(self, *words: str) -> None:
        self._process = subprocess.Popen(
            ["make", "--silent", "cluster", *words],
            cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=clean_environment(),
            start_new_session=True,
        )  # fmt: skip
        self.said = ""
        self._started: list[psutil.Process] = []

    def until(self, pattern: str) -> str:
        """Read what it prints up to a line that begins like this. Return its last word."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self.said += line
            if re.match(pattern, line):
                return line.split()[-1]
        raise AssertionError(f"no {pattern!r} in: {self.said}")

    def processes(self) -> list[psutil.Process]:
        """All its processes, also of PostgreSQL."""
        self._started = psutil.Process(self._process.pid).children(recursive=True)
        return self._started

    def interrupt(self) -> None:
        """Press Ctrl-C: the terminal sends SIGINT to the process group."""
        os.killpg(self._process.pid, signal.SIGINT)

    def rest(self) -> str:
        """Wait for its end and return all that it printed."""
        said, _ = self._process.communicate(timeout=PATIENCE)
        self.said += said
        return self.said

    def close(self) -> None:
        for process in [*self.processes(), self._process] if self._process.poll() is None else []:
            process.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()


@pytest.fixture
def made() -> Iterator[list[MakeCluster]]:
    clusters: list[MakeCluster] = []
    yield clusters
    for cluster in clusters:
        cluster.close()


@pytest.mark.long
def test_make_run_works_on_postgresql(tmp_path: Path) -> None:
    url = postgres().create("make_run")
    service = MakeRun(tmp_path, f"DATABASE_URL={url}")
    try:
        service.start()
        assert service.database_shown.endswith("/make_run")
        with SyncClient(service.url) as client:
            done = client.wait("order.created", {"item": "book", "quantity": 2})
        assert done.completes == {"succeeded": 3}
        assert not list(tmp_path.glob("*.db*"))
    finally:
        service.close()
        postgres().drop("make_run")


@pytest.mark.long
def test_make_cluster_has_three_nodes_and_leaves_nothing(made: list[MakeCluster]) -> None:
    made.append(cluster := MakeCluster("PORT=0", "WORKERS=1"))
    urls = [cluster.until(f"node{n}  http") for n in (1, 2, 3)]
    processes = cluster.processes()
    words = [Path(word) for each in processes for word in each.cmdline()]
    folders = {word for word in words if "busway-pg-" in str(word) or "busway-nats-" in str(word)}
    assert len(folders) >= 2
    with SyncClient(urls[1]) as reads, reads.subscribe("order.**").open() as items:
        with SyncClient(urls[0]) as publishes:
            seq = publishes.publish("order.created", {"item": "book", "quantity": 2}).seq
        first = next(items)
        assert (first.event.seq, first.handler, first.kind) == (seq, "price", "succeeded")
    cluster.interrupt()
    said = cluster.rest()
    assert "Traceback" not in said
    assert "ended with status" not in said  # that is for a node that ends by itself
    assert psutil.wait_procs(processes, PATIENCE)[1] == []
    assert [folder for folder in folders if folder.exists()] == []


@pytest.mark.long
def test_make_cluster_ends_if_a_node_does_not_start(made: list[MakeCluster]) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        made.append(cluster := MakeCluster(f"PORT={taken.getsockname()[1]}", "WORKERS=1"))
        cluster.until("PostgreSQL ")
        processes = cluster.processes()
        said = cluster.rest()
    # Others may have taken the port of the next node, too.
    assert len(re.findall(r"^cluster: node[123] did not start: .*in use.*$", said, re.MULTILINE)) == 1, said
    assert "Traceback" not in said
    assert psutil.wait_procs(processes, PATIENCE)[1] == []
