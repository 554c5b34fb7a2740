"""The OpenAPI page /docs and the script /client.js, from files in this package: no CDN, no inline script."""

from __future__ import annotations

import functools
import gzip
import hashlib
import re
from importlib import resources

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from busway.gateway.errors import NotFound

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "font-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CLIENT = "client.js"
_MEDIA_TYPES = {
    _CLIENT: "text/javascript; charset=utf-8",
    "docs.css": "text/css; charset=utf-8",
    "docs.js": "text/javascript; charset=utf-8",
    "favicon.svg": "image/svg+xml",
    "swagger-ui/swagger-ui.css": "text/css; charset=utf-8",
    "swagger-ui/swagger-ui-bundle.js": "text/javascript; charset=utf-8",
}
_LINK = re.compile(rb'(?<=")docs/static/([a-z./-]+)(?=")')


class _File(msgspec.Struct, frozen=True):
    body: bytes
    zipped: bytes
    tag: str
    media_type: str


def install(app: FastAPI) -> None:
    """Add the routes /docs, its files and /client.js. They are not in the OpenAPI document.

    `app` must not have FastAPI's own pages (`docs_url=None, redoc_url=None`).
    """
    for path, endpoint in (
        ("/docs", _page),
        ("/docs/static/{name:path}", _static),
        ("/client.js", _client),
    ):
        app.router.routes.append(Route(path, endpoint, methods=["GET"], include_in_schema=False))


async def _page(request: Request) -> Response:
    return _answer(request, _html(), "no-cache")


async def _client(request: Request) -> Response:
    return _answer(request, _file(_CLIENT), "no-cache")


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _MEDIA_TYPES:
        raise NotFound(f"the docs page has no file {name!r}: open /docs")
    file = _file(name)
    # Only a URL with the content's digest may be cached forever.
    named = request.query_params.get("v") == file.tag
    return _answer(request, file, "public, max-age=31536000, immutable" if named else "no-cache")


def _answer(request: Request, file: _File, caching: str) -> Response:
    headers = {
        "Cache-Control": caching,
        "Content-Security-Policy": _POLICY,
        "ETag": f'"{file.tag}"',
        "Referrer-Policy": "no-referrer",
        "Vary": "Accept-Encoding",
        "X-Content-Type-Options": "nosniff",
    }
    if file.tag in request.headers.get("If-None-Match", ""):
        return Response(status_code=304, headers=headers)
    if "gzip" not in request.headers.get("Accept-Encoding", ""):
        return Response(file.body, headers=headers, media_type=file.media_type)
    headers["Content-Encoding"] = "gzip"
    return Response(file.zipped, headers=headers, media_type=file.media_type)


def _load(name: str) -> bytes:
    return resources.files("busway.gateway.api").joinpath("static", name).read_bytes()


def _make(body: bytes, media_type: str) -> _File:
    tag = hashlib.sha256(body).hexdigest()[:16]
    return _File(body, gzip.compress(body, 6, mtime=0), tag, media_type)


@functools.cache
def _file(name: str) -> _File:
    return _make(_load(name), _MEDIA_TYPES[name])


@functools.cache
def _html() -> _File:
    def named(link: re.Match[bytes]) -> bytes:
        return link[0] + b"?v=" + _file(link[1].decode()).tag.encode()

    return _make(_LINK.sub(named, _load("docs.html")), "text/html; charset=utf-8")
