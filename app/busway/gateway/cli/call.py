"""One request to a gateway."""

from __future__ import annotations

from typing import Any

from busway.gateway.errors import BuswayError


def call(url: str, key: str | None, method: str, path: str, body: Any = None) -> Any:
    """Return the JSON body of a successful answer.

    Raises:
        BuswayError: no gateway answers, or it refuses.
    """
    import httpx  # noqa: PLC0415 - `serve` starts faster without it

    from busway.client.errors import BuswayClientError, Gateway, unreachable  # noqa: PLC0415 - as above
    from busway.client.network import address, network  # noqa: PLC0415 - as above

    try:
        url = address(url)
        reach = network(url)
        gateway = Gateway(url, key, 60, reach.variable)
        with httpx.Client(headers=gateway.headers, timeout=gateway.timeout, **reach.for_httpx()) as client:
            answer = client.request(method, gateway.url + path, json=body)
    except (BuswayClientError, ValueError) as problem:
        raise BuswayError(str(problem)) from None
    except (httpx.TransportError, httpx.InvalidURL) as problem:
        raise BuswayError(str(unreachable(gateway, problem))) from None
    if answer.is_success:
        return answer.json()
    try:
        detail = answer.json()["detail"]
    except (ValueError, KeyError, TypeError):
        detail = f"{url} answered {answer.status_code}: is it a Busway gateway?"
    raise BuswayError(detail)
