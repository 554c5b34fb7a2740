"""What the client raises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any


class BuswayClientError(Exception):
    """The gateway refused, or cannot be reached.

    Attributes:
        detail: what is wrong and what to do, one sentence.
        status: HTTP status, None if it came over the WebSocket or there was no answer.
        code: code of the `error` frame or of the close, None over HTTP.
        problem: the problem document, empty if there was none.
    """

    def __init__(
        self,
        detail: str,
        *,
        status: int | None = None,
        code: str | int | None = None,
        problem: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(detail)
        self.detail = detail
        self.status = status
        self.code = code
        self.problem = dict(problem or {})


class Gap(BuswayClientError):
    """Results that follow the cursor are no longer kept, or the cursor is of another log.

    Attributes:
        cursor: where the log is now; subscribe again with it to go on from there.
        oldest: the oldest place that can be resumed from.
    """

    def __init__(self, detail: str, cursor: str, oldest: str) -> None:
        super().__init__(detail, code="gap")
        self.cursor = cursor
        self.oldest = oldest


def describe(problem: Exception) -> str:
    """Say in a few words why there was no answer."""
    if isinstance(problem, TimeoutError):
        return "it took too long"
    return str(problem) or type(problem).__name__


def refusal(status: int, body: bytes) -> BuswayClientError:
    """Build the error for an answer that is none of success, from its problem document."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict):
        problem = {}
    detail = problem.get("detail") or f"the gateway answered {status}"
    return BuswayClientError(str(detail), status=status, problem=problem)
