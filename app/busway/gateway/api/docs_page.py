"""The OpenAPI page /docs and the script /client.js, from files in this package: no CDN, no inline script."""

from __future__ import annotations

import re

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from busway.gateway.api import static_files
from busway.gateway.api.preparing import Prepared
from busway.gateway.api.static_files import CHECKED, FOREVER, StaticFile
from busway.gateway.errors import NotFound

_CLIENT = "client.js"
_PAGE = "docs.html"
_NAMES = {
    _CLIENT,
    "docs.css",
    "docs.js",
    "favicon.svg",
    "page.css",
    "swagger-ui/swagger-ui.css",
    "swagger-ui/swagger-ui-bundle.js",
}
_LINK = re.compile(rb'(?<=")docs/static/([a-z./-]+)(?=")')


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
    return static_files.answer(request, (await _FILES.get())[_PAGE], CHECKED)


async def _client(request: Request) -> Response:
    return static_files.answer(request, (await _FILES.get())[_CLIENT], CHECKED)


async def _static(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in _NAMES:
        raise NotFound(f"the docs page has no file {name!r}: open /docs")
    file = (await _FILES.get())[name]
    named = request.query_params.get("v") == file.tag
    return static_files.answer(request, file, FOREVER if named else CHECKED)


def _make() -> dict[str, StaticFile]:
    files = {name: static_files.make(static_files.load(name), name) for name in _NAMES}

    def named(link: re.Match[bytes]) -> bytes:
        return link[0] + b"?v=" + files[link[1].decode()].tag.encode()

    return {**files, _PAGE: static_files.make(_LINK.sub(named, static_files.load(_PAGE)), _PAGE)}


_FILES = Prepared(_make)
