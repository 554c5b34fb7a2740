"""No test hangs: each part of one has a deadline, the usual or that of `@pytest.mark.timeout(seconds)`."""

from __future__ import annotations

import contextlib
import faulthandler
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

import pytest

DEADLINE = 120.0
AGAIN = 5.0  # an event loop may swallow what a signal handler raises: ask again


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "timeout(seconds): a deadline other than the usual one")
    if (
        signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    ):  # a script's background job, whose children inherit it
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    with deadline(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    with deadline(item):
        yield


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    with deadline(item):
        yield


@contextlib.contextmanager
def deadline(item: pytest.Item) -> Iterator[None]:
    mark = item.get_closest_marker("timeout")
    seconds = float(mark.args[0]) if mark else DEADLINE

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
