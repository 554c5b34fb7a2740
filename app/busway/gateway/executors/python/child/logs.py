"""`logging` in handler code: unless the user configures it, records from INFO on go to standard error.

So they are kept with the attempt, with level and logger.
"""

from __future__ import annotations

import logging
import sys

from busway.context import LOG_FORM, LogLines


class _StandardError(logging.Handler):
    """Writes to the present `sys.stderr`, as `logging.lastResort` does."""

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        try:
            sys.stderr.write(self.format(record) + "\n")
        except Exception:  # noqa: BLE001,RUF100 - as every logging handler does
            self.handleError(record)


class _Level(int):
    """Our level: another object than one that the user has set, even if the numbers are equal."""


_ours = _StandardError()
_ours.setFormatter(LogLines(LOG_FORM))
_info = _Level(logging.INFO)


def install() -> None:
    """Let records go to standard error. Call it before handler code is imported, and `settle` after it.

    The root logger gets no handler yet, so that `logging.basicConfig` works.
    """
    logging.lastResort = _ours
    logging.getLogger().setLevel(_info)


def step_back() -> None:
    """Let handler code configure `logging` until `settle` is called."""
    logging.getLogger().removeHandler(_ours)


def settle() -> None:
    """Use the configuration of handler code if there is one, otherwise ours."""
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(_ours)  # also for loggers with a NullHandler, which libraries have
    elif root.level is _info and root.handlers != [_ours]:
        root.setLevel(logging.WARNING)  # Python's default
