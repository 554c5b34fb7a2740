"""An attempt that is under way: which run it tries, with which revision and limits."""

from __future__ import annotations

import msgspec

from busway.domain.handler import Spec
from busway.domain.run import Run


class Attempt(msgspec.Struct, frozen=True):
    """What dispatch hands on beside the assignment, so that the outcome can be judged.

    `number` counts from 1; `pool` is where it was placed.
    """

    token: int
    run: Run
    number: int
    handler: str
    revision: int
    spec: Spec
    pool: str


Underway = dict[int, Attempt]
"""Attempts in the hands of workers, by token. Dispatch puts them in; whoever ends one takes it out."""
