"""Small pages for people who open an address of the gateway in a browser."""

from __future__ import annotations

import base64
import hashlib
import html

from starlette.requests import Request
from starlette.responses import Response

_STYLE = """
html { background: Canvas; color: CanvasText; }
body { max-width: 40rem; margin: 15vh auto 0; padding: 0 1.25rem; font: 1.1rem/1.5 system-ui, sans-serif; }
h1 { margin: 0 0 .5em; font-size: 1.6rem; }
code { overflow-wrap: anywhere; }
a { color: LinkText; }
"""
_POLICY = (
    "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_HEADERS = {
    "Content-Security-Policy": _POLICY.format(
        base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    ),
    "Referrer-Policy": "no-referrer",
    "Vary": "Accept",
    "X-Content-Type-Options": "nosniff",
}
_NOT_FOUND = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>Busway: not found</title>
<style>{style}</style>
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
    page = _NOT_FOUND.format(style=_STYLE, path=html.escape(request.url.path))
    return Response(page, 404, headers=_HEADERS, media_type="text/html")
