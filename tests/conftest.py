"""For all tests: which files run first, and that none hangs.

Each part of a test has a deadline. It catches what hangs, not what is slow: a busy machine must not reach it.
"""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import os
import signal
from collections.abc import Generator, Iterator
from types import FrameType
from typing import NoReturn

import pytest

from tests import forked

DEADLINE = 900.0  # seconds
AGAIN = 5.0  # an event loop may swallow what a signal handler raises: ask again
TAKE_LONG = (
    "tests/e2e/test_postgres.py",
    "tests/e2e/test_faults.py",
    "tests/e2e/test_nodes.py",
    "tests/packaging/test_without_server.py",
    "tests/e2e/test_standbys.py",
    "tests/workers/test_scarce.py",
    "tests/e2e/test_moving.py",
    "tests/store/postgres/test_plans.py",
    "tests/browser/test_docs_look.py",
    "tests/packaging/test_installed.py",
    "tests/packaging/test_image.py",
    "tests/e2e/test_limits.py",
    "tests/browser/test_client_script.py",
    "tests/e2e/test_pgbouncer.py",
    "tests/faults/test_ends.py",
    "tests/faults/test_cancel.py",
    "tests/e2e/test_order.py",
    "tests/e2e/test_streams.py",
    "tests/e2e/test_reload.py",
    "tests/e2e/test_database_files.py",
    "tests/dispatch/test_order.py",
    "tests/testing/test_fixture.py",
    "tests/e2e/test_node_faults.py",
)
"""Where files run at once, these begin, so that no long one is left over at the end."""


def pytest_configure(config: pytest.Config) -> None:
    # Children inherit what the jobs of scripts and `nohup` ignore; of a handler they inherit the default.
    for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, lambda *_: None)):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, handler)
    forked.fork_committers()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Collect without the garbage collector, which took half of the time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    places = {file: place for place, file in enumerate(TAKE_LONG)}
    items.sort(key=lambda item: places.get(item.nodeid.partition("::")[0], len(places)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print what tests noted with `record_property("note", ...)`, also those that passed."""
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, text in getattr(report, "user_properties", ()):
                if name == "note" and report.when == "teardown":
                    terminalreporter.write_line(text)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup() -> Iterator[None]:
    with deadline():
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    soak = float(os.environ.get("SOAK_SECONDS", "60")) if item.get_closest_marker("soak") else 0.0
    fuzz = 60 * float(os.environ.get("FUZZ_SECONDS", "0"))  # it also counts requests for each operation
    with deadline(DEADLINE + soak + fuzz):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown() -> Iterator[None]:
    with deadline():
        yield


@contextlib.contextmanager
def deadline(seconds: float = DEADLINE) -> Iterator[None]:
    def late(_signal: int, _frame: FrameType | None) -> NoReturn:
        faulthandler.dump_traceback(2)
        pytest.fail(f"it still runs after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds, AGAIN)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
