"""Counts what a process of the gateway does, from inside; Python imports it at start where it is on the path.

Only programs that are started with this folder in PYTHONPATH and COUNTED in the environment are counted.
Each process writes its figures into a file of its own in the folder COUNTED, KIND-PID, as they come: reading
them disturbs nobody, and `tests/work/counting.py` does. COUNTED_PYTHON is another interpreter, with which the
gateway starts its children.
"""

from __future__ import annotations

import mmap
import os
import sys
import threading
from types import FrameType
from typing import Any

STEPS, PYTHON_CALLS, C_CALLS, ENCODINGS, DECODINGS, STATEMENTS, COMMITS, FIELDS = range(8)
NEVER = 3600.0  # seconds
_KINDS = {
    "busway.gateway.store.committer": "committer",
    "busway.gateway.executors.python.child.zygote": "zygote",
}
_KIND = next((_KINDS[word] for word in sys.orig_argv if word in _KINDS), "gateway")
_ENCODING = frozenset({"encode", "Encoder.encode", "Encoder.encode_into"})  # msgspec's, never str.encode
_DECODING = frozenset({"decode", "Decoder.decode"})


class Page:
    """The figures of this process, in memory that it shares with the test."""

    def __init__(self, kind: str) -> None:
        self.figures: memoryview[int]
        self.open(kind)

    def open(self, kind: str) -> None:
        """Begin a page of this kind at zero."""
        size = FIELDS * 8
        descriptor = os.open(f"{os.environ['COUNTED']}/{kind}-{os.getpid()}", os.O_RDWR | os.O_CREAT, 0o644)
        os.ftruncate(descriptor, size)
        self.figures = memoryview(mmap.mmap(descriptor, size)).cast("Q")
        os.close(descriptor)


class Counter:
    """Is told what happens by Python, which traces nothing meanwhile, and by SQLite. Leaves itself out."""

    def __init__(self, page: Page) -> None:
        self._page = page
        self._made: list[Any] = []  # connections whose making has not returned yet

    def start(self) -> None:
        """Count from now on, in all threads of this process and in its forks."""
        sys.addaudithook(self._on_audit)
        os.register_at_fork(after_in_child=self._begin_worker)
        threading.setprofile(self._on_c_call)
        threading.settrace(self._on_call)
        sys.setprofile(self._on_c_call)
        sys.settrace(self._on_call)

    def _begin_worker(self) -> None:
        self._page.open("worker")
        # Counting slows a worker down, but not its clock, which would part what it tells at random.
        sys.modules["busway.gateway.executors.python.child.ticker"].TICK = NEVER

    def _on_call(self, frame: FrameType, _what: str, _: Any) -> Any:
        if frame.f_code is Counter._on_statement.__code__:
            return None
        self._page.figures[PYTHON_CALLS] += 1
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        return self._in_frame

    def _in_frame(self, _frame: FrameType, what: str, _: Any) -> Any:
        if what == "opcode":
            self._page.figures[STEPS] += 1
        return self._in_frame

    def _on_c_call(self, _frame: FrameType, what: str, function: Any) -> None:
        if what == "c_return":
            self._follow()
        if what != "c_call":
            return
        self._page.figures[C_CALLS] += 1
        name = getattr(function, "__qualname__", "")
        if name in _ENCODING:
            self._page.figures[ENCODINGS] += 1
        elif name in _DECODING:
            self._page.figures[DECODINGS] += 1

    def _on_audit(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "sqlite3.connect/handle":
            self._made.append(arguments[0])

    def _follow(self) -> None:
        while self._made:
            self._made.pop().set_trace_callback(self._on_statement)

    def _on_statement(self, statement: str) -> None:
        self._page.figures[STATEMENTS] += 1
        self._page.figures[COMMITS] += statement == "COMMIT"


if "COUNTED" in os.environ:
    Counter(Page(_KIND)).start()
if "COUNTED_PYTHON" in os.environ and _KIND == "gateway":
    sys.executable = os.environ["COUNTED_PYTHON"]
