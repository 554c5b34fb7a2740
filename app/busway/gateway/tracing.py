"""Composes the parts of a gateway that make spans, or those that make none.

They are chosen once, at the start, so a gateway without traces does nothing for them, and does not import
OpenTelemetry.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from busway.domain.handler import Rules
from busway.gateway.attempts.inflight import InFlight
from busway.gateway.ingest.publisher import Publisher
from busway.gateway.nodes.port import Nodes
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.group.process import Launched
from busway.gateway.store.port.commits import Commits
from busway.gateway.subscribers.hub import Hub
from busway.gateway.turns import Turns

if TYPE_CHECKING:
    from busway.gateway.traces.tracer import Tracer


def make_commits(
    on: bool, nodes: Nodes, url: str, launched: Launched | None, stack: AsyncExitStack
) -> tuple[Tracer | None, GroupCommits]:
    """Return what makes the spans of this node, and what writes to the store. `stack` closes the first.

    Args:
        on: whether there are traces. If not, the first is None.
        nodes: this node and the others.
        url: of the database.
        launched: a committer process to use.
        stack: ends with the gateway.
    """
    if not on:
        return None, GroupCommits(url, launched)
    # OpenTelemetry is loaded if it is used.
    from busway.gateway.traces.commits import TracedCommits  # noqa: PLC0415 - as said
    from busway.gateway.traces.tracer import Tracer  # noqa: PLC0415 - as said

    tracer = Tracer(nodes.name, nodes.clock)
    stack.push_async_callback(tracer.close)
    return tracer, TracedCommits(url, launched, tracer)


def show_attempts(commits: GroupCommits, in_flight: InFlight) -> InFlight:
    """Let the spans of cancelled attempts be made. Return the attempts in flight."""
    show = getattr(commits, "show_attempts", None)
    if show is not None:
        show(in_flight.runs)
    return in_flight


def make_publisher(
    tracer: Tracer | None,
    commits: Commits,
    rules: Rules,
    clock: Callable[[], int],
    max_event_bytes: int,
    turns: Turns,
) -> Publisher:
    """Return what accepts events."""
    if tracer is None:
        return Publisher(commits, rules, clock, max_event_bytes, turns)
    from busway.gateway.traces.publisher import TracedPublisher  # noqa: PLC0415 - as above

    return TracedPublisher(commits, rules, clock, max_event_bytes, turns, tracer)


def hub_type(tracer: Tracer | None) -> Callable[..., Hub]:
    """Return what makes the hub."""
    if tracer is None:
        return Hub
    from busway.gateway.traces.hub import TracedHub  # noqa: PLC0415 - as above

    return partial(TracedHub, tracer)
