"""Connects what makes spans, if the environment asks for traces.

The parts of a gateway know nothing of it: it stands in front of the port for writes, chooses the codecs, and
observes what the hub sends. It is connected once, at the start, so a gateway without traces does nothing for
them, and does not import OpenTelemetry.
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from functools import partial
from typing import TYPE_CHECKING

from busway.gateway.attempts.inflight import InFlight
from busway.gateway.ingest.codecs.choosing import choose
from busway.gateway.ingest.codecs.port import Choose
from busway.gateway.nodes.port import Nodes
from busway.gateway.store.group.commits import GroupCommits
from busway.gateway.store.port.commits import Commits
from busway.gateway.subscribers.hub import Hub

if TYPE_CHECKING:
    from busway.gateway.traces.tracer import Tracer


def trace_commits(
    on: bool, nodes: Nodes, commits: GroupCommits, stack: AsyncExitStack
) -> tuple[Tracer | None, Commits]:
    """Return what makes the spans of this node, and what writes to the store with them. `stack` closes both.

    Args:
        on: whether there are traces. If not, the first is None, and the second `commits`.
        nodes: this node and the others.
        commits: writes to the store.
        stack: ends with the gateway.
    """
    if not on:
        stack.push_async_callback(commits.close)
        return None, commits
    # OpenTelemetry is loaded if it is used.
    from busway.gateway.traces.commits import TracedCommits  # noqa: PLC0415 - as said
    from busway.gateway.traces.tracer import Tracer  # noqa: PLC0415 - as said

    tracer = Tracer(nodes.name, nodes.clock)
    stack.push_async_callback(tracer.close)  # after the last commit
    stack.push_async_callback(commits.close)
    return tracer, TracedCommits(commits, tracer)


def trace_attempts(tracer: Tracer | None, in_flight: InFlight) -> InFlight:
    """Let the spans of cancelled attempts be made. Return the attempts in flight."""
    if tracer is not None:
        tracer.attempts = in_flight.runs
    return in_flight


def codec_choice(tracer: Tracer | None) -> Choose:
    """Return what chooses the codec of a request."""
    if tracer is None:
        return choose
    from busway.gateway.traces.codecs import choose_traced  # noqa: PLC0415 - as above

    return partial(choose_traced, tracer)


def trace_deliveries(tracer: Tracer | None, commits: Commits, hub: Hub) -> None:
    """Let the spans of deliveries be made. Do it before anything joins the hub."""
    if tracer is None:
        return
    from busway.gateway.traces.deliveries import DeliverySpans  # noqa: PLC0415 - as above

    deliveries = DeliverySpans(tracer)
    commits.listen(deliveries.committed)
    hub.on_sent = deliveries.sent
