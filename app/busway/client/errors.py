"""Which gateway a client speaks to, and what it raises."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

_KEY = re.compile(r"bw_[0-9]+_", re.ASCII)
_KEYS = {401, 403, 4401, "not_allowed"}


class Gateway(msgspec.Struct, frozen=True):
    """Where the gateway is, with which key, and how many seconds it has for an answer."""

    url: str
    key: str | None = None
    timeout: float = 30

    @property
    def headers(self) -> dict[str, str]:
        """The headers that every request has."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def socket(self) -> str:
        """The address of its WebSocket."""
        return f"ws{self.url.removeprefix('http')}/v1/subscribe"

    def asked(self) -> str:
        """Name the gateway and the key, without its secret."""
        if not self.key:
            return f"{self.url}, asked without a key"
        form = _KEY.match(self.key)
        return f"{self.url}, asked with {f'the key {form[0]}…' if form else 'what is no key'}"


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


def refusal(gateway: Gateway, status: int, body: bytes) -> BuswayClientError:
    """Build the error for an answer that is none of success, from its problem document."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict) or "detail" not in problem:
        return BuswayClientError(f"{gateway.url} answered {status}: is it a Busway gateway?", status=status)
    return BuswayClientError(_told(gateway, str(problem["detail"]), status), status=status, problem=problem)


def refused(gateway: Gateway, detail: str, code: str | int) -> BuswayClientError:
    """Build the error for an `error` frame or a close code."""
    return BuswayClientError(_told(gateway, detail or f"closed with {code}", code), code=code)


def _told(gateway: Gateway, detail: str, code: str | int) -> str:
    return f"{detail} ({gateway.asked()})" if code in _KEYS else detail
