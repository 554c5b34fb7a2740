"""The address of a gateway, and the exceptions of the clients."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import msgspec

_KEY = re.compile(r"bw_[0-9]+_", re.ASCII)
_KEYS = {401, 403, 4401, "not_allowed"}


class Gateway(msgspec.Struct, frozen=True):
    """The URL of a gateway, the API key or token, and the timeout for an answer in seconds.

    `renews`: a function returns the key. `proxy`: the variable of the environment that names the proxy, if
    there is one.
    """

    url: str
    key: str | None = None
    timeout: float = 30
    proxy: str = ""
    renews: bool = False

    @property
    def headers(self) -> dict[str, str]:
        """The headers of every request."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}

    @property
    def socket(self) -> str:
        """The URL of its WebSocket."""
        return f"ws{self.url.removeprefix('http')}/v1/subscribe"

    def described(self) -> str:
        """Return the gateway and the key without its secret, for error messages."""
        if self.renews:
            return f"{self.url}, with the key that the function returned"
        if self.key and self.key.count(".") == 2:
            return f"{self.url}, with a token"
        if not self.key:
            return f"{self.url}, without an API key"
        form = _KEY.match(self.key)
        return f"{self.url}, with {f'the API key {form[0]}…' if form else 'a malformed API key'}"


class BuswayClientError(Exception):
    """The gateway refused a request or cannot be reached.

    Attributes:
        detail: what is wrong and what to do.
        status: the HTTP status, or None for the WebSocket and without an answer.
        code: the code of the `error` frame, or the close code. None over HTTP.
        problem: the problem document, or an empty dict.
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
    """Results after the cursor were deleted, or the cursor belongs to another log.

    Attributes:
        cursor: the newest cursor. Subscribe with it to continue from now.
        oldest: the oldest available cursor.
    """

    def __init__(self, detail: str, cursor: str, oldest: str) -> None:
        super().__init__(detail, code="gap")
        self.cursor = cursor
        self.oldest = oldest


def describe(problem: Exception) -> str:
    """Return a short reason why there was no answer."""
    if isinstance(problem, TimeoutError):
        return "timed out"
    return str(problem) or type(problem).__name__


def unreachable(gateway: Gateway, failure: Exception) -> BuswayClientError:
    """Build the error for a gateway that cannot be reached."""
    if gateway.proxy:
        return BuswayClientError(
            f"no gateway answers at {gateway.url} through the proxy in {gateway.proxy} "
            f"({describe(failure)}): correct the variable, or add the gateway to NO_PROXY"
        )
    return BuswayClientError(
        f"no gateway answers at {gateway.url} ({describe(failure)}): start one with `busway serve`, or check "
        "the URL"
    )


def refusal(gateway: Gateway, status: int, body: bytes) -> BuswayClientError:
    """Build the error for an unsuccessful answer from its problem document."""
    try:
        problem = json.loads(body)
    except ValueError:
        problem = {}
    if not isinstance(problem, dict) or "detail" not in problem:
        return BuswayClientError(f"{gateway.url} answered {status}: is it a Busway gateway?", status=status)
    return BuswayClientError(_detail(gateway, str(problem["detail"]), status), status=status, problem=problem)


def refused(gateway: Gateway, detail: str, code: str | int) -> BuswayClientError:
    """Build the error for an `error` frame or a close code."""
    return BuswayClientError(_detail(gateway, detail or f"closed with {code}", code), code=code)


def _detail(gateway: Gateway, detail: str, code: str | int) -> str:
    return f"{detail} ({gateway.described()})" if code in _KEYS else detail
