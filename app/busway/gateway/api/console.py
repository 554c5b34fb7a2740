"""The console: the page at / for browsers, and its files.

A browser gets three files: the libraries, the modules as one script, the styles. The digest of all files is
part of their path. One release of the console has one path, and a browser keeps its files for ever.
"""

from __future__ import annotations

import hashlib
from importlib import resources

import msgspec
from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from busway.gateway.api import answers, pages, static_files
from busway.gateway.api.bundle import bundle
from busway.gateway.api.negotiation import prefers
from busway.gateway.api.preparing import Prepared
from busway.gateway.api.static_files import CHECKED, FOREVER, StaticFile
from busway.gateway.errors import NotFound
from busway.version import __version__

PREFIX = "/console/"
_FOLDER = "console"
_LIBRARIES = (
    "theme.js",
    "vendor/preact.umd.js",
    "vendor/hooks.umd.js",
    "vendor/htm.umd.js",
    "vendor/uPlot.iife.min.js",
)
_STYLES = ("vendor/uPlot.min.css", "style.css")
_POLICY = (
    "default-src 'self'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "object-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
_TEXT = (
    f"Busway {__version__}: open this address in a browser for the console; "
    "/docs is the documentation for people, /openapi.json for programs\n"
)
_LINKS = {
    "name": "busway",
    "version": __version__,
    "console": "/",
    "docs": "/docs",
    "openapi": "/openapi.json",
    "asyncapi": "/asyncapi.json",
}


class _Release(msgspec.Struct, frozen=True):
    digest: str
    files: dict[str, StaticFile]
    page: StaticFile


def install(app: FastAPI) -> None:
    """Add the routes / and /console/…. They are not in the OpenAPI document."""
    for path, endpoint in (("/", _root), (PREFIX + "{digest}/{name:path}", _file)):
        app.router.routes.append(Route(path, endpoint, methods=["GET"], include_in_schema=False))


async def _root(request: Request) -> Response:
    """Answer with the console to browsers, with links as JSON to programs that ask for it, or with a line."""
    if pages.wants_page(request):
        return static_files.answer(request, (await _RELEASE.get()).page, CHECKED, _POLICY, vary="Accept")
    if prefers(request.headers.get("Accept", ""), "application/json", "text/plain"):
        answer = answers.json(_LINKS)
    else:
        answer = PlainTextResponse(_TEXT)
    answer.headers["Vary"] = "Accept"
    return answer


async def _file(request: Request) -> Response:
    release, name = await _RELEASE.get(), request.path_params["name"]
    if name not in release.files:
        raise NotFound(f"the console has no file {name!r}: open /")
    # During an upgrade a page of the other release may ask this node.
    same = request.path_params["digest"] == release.digest
    return static_files.answer(request, release.files[name], FOREVER if same else CHECKED, _POLICY)


def _make() -> _Release:
    files = {
        "libraries.js": b"\n".join(_load(name) for name in _LIBRARIES),
        "console.js": bundle(_modules(), "app.js").encode(),
        "console.css": b"\n".join(_load(name) for name in _STYLES),
    }
    page = _load("index.html")
    digest = hashlib.sha256()
    for body in (page, *files.values()):
        digest.update(b"%d\n" % len(body))
        digest.update(body)
    named = digest.hexdigest()[:16]
    page = page.replace(b"console/static/", f"console/{named}/".encode())
    made = {name: static_files.make(body, name) for name, body in files.items()}
    return _Release(named, made, static_files.make(page, "index.html"))


def _load(name: str) -> bytes:
    return static_files.load(f"{_FOLDER}/{name}")


def _modules() -> dict[str, str]:
    """Return the source of each module, and of the client that `live.js` imports, by its path."""
    folder = resources.files("busway.gateway.api").joinpath("static", _FOLDER)
    names = [each.name for each in folder.iterdir()]
    names += [f"pages/{each.name}" for each in folder.joinpath("pages").iterdir()]
    found = {name: _load(name).decode() for name in names if name.endswith(".js")}
    return {**found, "../../client.js": static_files.load("client.js").decode()}


_RELEASE = Prepared(_make)
