"""`busway publish --wait`: publishes an event and prints all results that it causes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any

import typer

from busway.client.aio import BuswayClientError, Client, Completed, Item, NotCompleted
from busway.gateway.cli.call import explained
from busway.gateway.cli.event import NAMES
from busway.gateway.cli.output import counts, note
from busway.gateway.cli.progress import waiting
from busway.gateway.cli.results import Results
from busway.gateway.errors import BuswayError


def publish_and_wait(
    url: str, key: str | None, event: Mapping[str, Any], seconds: float, *, json_lines: bool
) -> None:
    """Publish an event and print the results of its tree as they come.

    Raises:
        BuswayError: it was not completed in time, or the gateway refused it or does not answer.
        Exit: a run ended without success. The status is 1.
    """
    results = Results(json_lines=json_lines)
    try:
        # JSON is written beside the console.
        shown = waiting("waiting for results", quiet=True, over=results.console)
        with nullcontext() if json_lines else shown:
            done = asyncio.run(_completed(url, key, event, seconds, results.show))
    except NotCompleted as problem:
        if problem.event is None:
            raise BuswayError(
                f"the gateway did not answer within {seconds:g} s: the event may be stored"
            ) from None
        raise BuswayError(
            f"event {problem.event.seq} is stored but was not completed within {seconds:g} s: "
            f"see `busway runs --event {problem.event.seq}`"
        ) from None
    except BuswayClientError as problem:
        raise explained(problem, NAMES) from None
    except ValueError as problem:
        raise BuswayError(str(problem)) from None
    seq = done.event.seq
    if not done.event.runs and not done.results:
        note(f"event {seq} is stored, but no handler takes its type: `busway handlers` lists them")
        return
    note(f"event {seq} is completed: {counts(done.completes)}")
    if set(done.completes) - {"succeeded"}:
        raise typer.Exit(1)


async def _completed(
    url: str, key: str | None, event: Mapping[str, Any], seconds: float, show: Callable[[Item], None]
) -> Completed:
    attributes = {name: value for name, value in event.items() if name not in {"type", "data"}}
    async with Client(url, key) as client:
        return await client.wait(
            event["type"], event.get("data"), timeout=seconds, on_result=show, **attributes
        )
