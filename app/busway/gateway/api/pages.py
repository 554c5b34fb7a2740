"""Small pages for people who open an address of the gateway in a browser."""

from __future__ import annotations

import html

from starlette.requests import Request
from starlette.responses import Response

from busway.gateway.api.page_headers import page_headers

_NOT_FOUND = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Busway: not found</title>
<link rel="stylesheet" href="/docs/static/page.css">
</head>
<body>
<h1>Not found</h1>
<p>This Busway gateway has no page <code>{path}</code>.</p>
<p>Open <a href="/docs">the API documentation</a>: it lists all operations, and you can try them there.</p>
</body>
</html>
"""


def wants_page(request: Request) -> bool:
    """Return whether the request comes from a browser that opens an address."""
    return request.method in {"GET", "HEAD"} and "text/html" in request.headers.get("Accept", "")


def not_found(request: Request) -> Response:
    """Return the page for an address that does not exist."""
    page = _NOT_FOUND.format(path=html.escape(request.url.path))
    return Response(page, 404, headers={**page_headers(request), "Vary": "Accept"}, media_type="text/html")
