"""Requests of commands to a gateway, and its errors in the words of the command line."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Self

from busway.domain.handler import NAME
from busway.gateway.errors import BadSettings, BuswayError

if TYPE_CHECKING:
    import httpx

    from busway.client.errors import BuswayClientError

TIMEOUT = 60.0  # seconds
PAGE = 1000  # items of a page
_COMMANDS = {
    "events": "",
    "handlers": ": `busway handlers` lists them",
    "schedules": ": `busway schedules` lists them",
    "sources": ": `busway sources` lists them",
    "subscriptions": ": `busway subscriptions` lists them",
    "replays": ": `busway replays` lists them",
    "targets": ": `busway handlers targets` lists them",
    "keys": ": `busway keys list` lists them",
    "runs": ": `busway runs` lists runs",
}
_ADVICE = re.compile(r": GET /v1/([a-z]+) lists [a-z ]+$")


class Caller:
    """Sends requests to one gateway. Use it as a context manager.

    Args:
        url: address of the gateway.
        key: API key, if the gateway needs one.
        timeout: seconds for one request.

    Raises:
        BuswayError: the URL or a variable of the environment is invalid.
    """

    def __init__(self, url: str, key: str | None, timeout: float = TIMEOUT) -> None:
        import httpx  # noqa: PLC0415 - `serve` and `--help` start faster without it

        from busway.client.errors import BuswayClientError, Gateway  # noqa: PLC0415 - as above
        from busway.client.network import address, network  # noqa: PLC0415 - as above

        try:
            url = address(url)
            reach = network(url)
            self.gateway = Gateway(url, key, timeout, reach.variable)
            self._http = httpx.Client(headers=self.gateway.headers, timeout=timeout, **reach.for_httpx())
        except (BuswayClientError, ValueError) as problem:
            raise BuswayError(str(problem)) from None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()

    def send(
        self,
        method: str,
        path: str,
        *,
        params: Any = None,
        body: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        """Return the answer of the gateway. A body is JSON if `headers` does not say otherwise.

        Raises:
            BuswayError: no gateway answers.
        """
        import httpx  # noqa: PLC0415 - as above

        from busway.client.errors import unreachable  # noqa: PLC0415 - as above

        kind = {} if body is None else {"Content-Type": "application/json"}
        named = {**kind, **(headers or {})}
        try:
            return self._http.request(
                method, self.gateway.url + path, params=params, content=body, headers=named
            )
        except (httpx.TransportError, httpx.InvalidURL) as problem:
            raise BuswayError(str(unreachable(self.gateway, problem))) from None

    def call(
        self,
        method: str,
        path: str,
        *,
        params: Any = None,
        body: bytes | None = None,
        names: Mapping[str, str] | None = None,
    ) -> Any:
        """Return the JSON body of a successful answer, None if it has no body. `names` is as for `explained`.

        Raises:
            BuswayError: no gateway answers, or it refuses.
        """
        from busway.client.errors import refusal  # noqa: PLC0415 - as above

        answer = self.send(method, path, params=params, body=body)
        if not answer.is_success:
            raise explained(refusal(self.gateway, answer.status_code, answer.content), names)
        if not answer.content:
            return None
        try:
            found = answer.json()
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise BuswayError(str(refusal(self.gateway, answer.status_code, b"")))
        return found

    def items(self, path: str, params: Mapping[str, Any], most: int | None = None) -> Iterator[Any]:
        """Yield the items of a list, page by page, at most `most`.

        Raises:
            BuswayError: no gateway answers, or it refuses.
        """
        after: dict[str, Any] = {}
        while most is None or most > 0:
            limit = PAGE if most is None else min(most, PAGE)
            page = self.call("GET", path, params={**params, **after, "limit": limit})
            yield from page["items"]
            if page["next"] is None:
                return
            after = {"after": page["next"]}
            most = None if most is None else most - len(page["items"])


def dry(run: bool) -> dict[str, str]:
    """Return the parameters of a request that changes something: with a dry run, it only checks."""
    return {"dry_run": "true"} if run else {}


def check_name(name: str) -> str:
    """Return the name of a handler for a path.

    Raises:
        BuswayError: it is none, and would be another path.
    """
    if not re.fullmatch(NAME, name):
        raise BuswayError(f"{name!r} is not the name of a handler: `busway handlers` lists them")
    return name


def explained(problem: BuswayClientError, names: Mapping[str, str] | None = None) -> BuswayError:
    """Return an error of a gateway in the words of the command line.

    It is a `BadSettings`, wrong use, if it names arguments or options.

    Args:
        problem: the error.
        names: the argument or option for each field of the request. Others are parameters of the same name,
            or extension attributes.
    """
    errors = problem.problem.get("errors")
    if errors:
        return BadSettings("; ".join(field(each["loc"], each["msg"], names or {}) for each in errors))
    if problem.status == 401 or problem.code == 4401:
        return BuswayError(_key_refused(problem.detail))
    detail = _ADVICE.sub(lambda found: _COMMANDS.get(found[1], ""), problem.detail)
    detail = detail.replace(
        ": change it with PATCH, or delete it", ": `update` changes it, `delete` deletes it"
    )
    first, colon, rest = detail.partition(": ")  # a frame of a WebSocket names its first bad field so
    if names and first in names:
        return BadSettings(f"{names[first]}{colon}{rest}")
    return BuswayError(detail)


def field(loc: list[str | int], message: str, names: Mapping[str, str]) -> str:
    """Return what is wrong with one field of a request. `loc` is as in a problem document."""
    name = next((part for part in reversed(loc) if isinstance(part, str)), "")
    if loc[0] == "query":
        return f"{names.get(name, f'--{name}')}: {message}"
    part = next((part for part in loc[1:] if isinstance(part, str)), "")
    if not part:
        return message
    return f"{names.get(part, f'--attribute {part}')}: {message}"


def _key_refused(detail: str) -> str:
    if detail.startswith("missing API key"):
        return (
            "this gateway needs an API key: set --key or BUSWAY_KEY (`busway keys create NAME` creates one)"
        )
    if detail.startswith("malformed API key"):
        return "malformed API key: --key (or BUSWAY_KEY) must be a key such as bw_1_…"
    return f"{detail}: check --key or BUSWAY_KEY"
