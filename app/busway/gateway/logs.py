"""Structured logs on standard error: readable text on a terminal, JSON lines otherwise."""

from __future__ import annotations

import logging
import sys

import structlog

from busway.gateway import log_limit, streams

log = logging.getLogger("busway")


def configure() -> None:
    """Send all of `logging` through structlog. The command line calls it once."""
    shared: list[structlog.typing.Processor] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stderr.isatty()
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if terminal
        else [structlog.processors.format_exc_info, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last],
        )
    )
    handler.addFilter(log_limit.limit)
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("busway").setLevel(logging.INFO)
    logging.captureWarnings(True)
    queue = streams.log()
    if queue is not None:
        queue.report = _report


def _report(dropped: int) -> None:
    log.warning("%d log lines were dropped: standard error was not read, or could not be written", dropped)
