"""Collects what a small batch has written, for the message to the other nodes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from busway.gateway.store.group.committed import new_runs
from busway.gateway.store.port.news import Content, NewsAssignment, NewsResult
from busway.gateway.store.port.operations import Append, Assign, Fire, Publish, Settle, Settled

MOST = 16  # operations, and events of one: larger batches are read, which costs less for each


def collect(operations: Sequence[Any], replies: Sequence[Any]) -> Content | None:
    """Return what these operations wrote, None if there are many. Rare operations are left out."""
    if len(operations) > MOST:
        return None
    content = Content()
    for operation, reply in zip(operations, replies, strict=True):
        kind = type(operation)
        if kind is Settle and isinstance(reply, Settled) and reply.accepted:
            _add_settled(content, operation, reply)
        elif kind in {Publish, Fire} and isinstance(reply, list):
            if len(operation.events) > MOST:
                return None
            content.runs += new_runs(operation.events, reply)
        elif kind is Assign and reply is True:
            content.assigned.append(
                NewsAssignment(
                    operation.run, operation.attempt, operation.token, operation.pool, operation.fence
                )
            )
        elif kind is Append and isinstance(reply, int):
            new = operation.result
            content.results.append(
                NewsResult(reply, operation.run, operation.revision, operation.attempt, new)
            )
    return content


def _add_settled(content: Content, operation: Settle, settled: Settled) -> None:
    if operation.result is not None:
        content.results.append(
            NewsResult(
                settled.number,
                operation.run,
                operation.report.revision,
                operation.attempt,
                operation.result,
                settled.completes,
            )
        )
    if operation.published:
        content.runs += new_runs(operation.published[:MOST], settled.stored[:MOST])
