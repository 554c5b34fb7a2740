"""Files of this package as answers: compressed, with their digest as ETag, under a strict policy."""

from __future__ import annotations

import gzip
import hashlib
from importlib import resources

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from busway.gateway.api.page_headers import POLICY, page_headers

MEDIA_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
FOREVER = "public, max-age=31536000, immutable"
"""Only for a URL with the content's digest."""
CHECKED = "no-cache"
"""The browser keeps the file, and asks each time whether it is still the same."""


class StaticFile(msgspec.Struct, frozen=True):
    """A file, and its form for browsers that take compressed answers. `tag` identifies its content."""

    body: bytes
    zipped: bytes
    tag: str
    media_type: str


def load(name: str) -> bytes:
    """Read a file of `static`."""
    return resources.files("busway.gateway.api").joinpath("static", name).read_bytes()


def make(body: bytes, name: str) -> StaticFile:
    """Make an answer of a file's content. The end of the name decides its media type."""
    tag = hashlib.sha256(body).hexdigest()[:16]
    return StaticFile(body, gzip.compress(body, 6, mtime=0), tag, MEDIA_TYPES[name[name.rindex(".") :]])


def answer(
    request: Request, file: StaticFile, caching: str, policy: str = POLICY, vary: str = ""
) -> Response:
    """Answer with a file, or with 304 if the browser has it.

    Args:
        request: the request.
        file: the file.
        caching: `FOREVER` or `CHECKED`.
        policy: the Content-Security-Policy.
        vary: another header on which the answer depends, besides `Accept-Encoding`.
    """
    headers = {
        **page_headers(request, policy),
        "Cache-Control": caching,
        "ETag": f'"{file.tag}"',
        "Vary": f"Accept-Encoding, {vary}" if vary else "Accept-Encoding",
    }
    if file.tag in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" not in request.headers.get("Accept-Encoding", ""):
        return Response(file.body, headers=headers, media_type=file.media_type)
    headers["Content-Encoding"] = "gzip"
    return Response(file.zipped, headers=headers, media_type=file.media_type)
