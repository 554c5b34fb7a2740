"""The console: the page at / for browsers, and its files.

Scripts import one another by relative names, so the digest of all files is part of the path of each. One
release of the console has one path, and a browser keeps its files for ever.
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
from busway.gateway.api.negotiation import prefers
from busway.gateway.api.preparing import Prepared
from busway.gateway.api.static_files import CHECKED, FOREVER, MEDIA_TYPES, StaticFile
from busway.gateway.errors import NotFound
from busway.version import __version__

PREFIX = "/console/"
_FOLDER = "console"
_PAGE = "index.html"
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
    bodies = {name: static_files.load(f"{_FOLDER}/{name}") for name in _names()}
    digest = hashlib.sha256()
    for name, body in bodies.items():
        digest.update(b"%s %d\n" % (name.encode(), len(body)))
        digest.update(body)
    prefix = f"console/{digest.hexdigest()[:16]}/"
    html = bodies.pop(_PAGE).decode()
    # Without these links a browser would learn of each script only from the one that imports it.
    modules = [name for name in bodies if name.endswith(".js") and not name.startswith(("vendor/", "theme"))]
    links = [f'<link rel="modulepreload" href="{prefix}{name}">' for name in modules]
    html = html.replace("<!-- modules -->", "\n  ".join(links)).replace("console/static/", prefix)
    return _Release(
        prefix.split("/")[1],
        {name: static_files.make(body, name) for name, body in bodies.items()},
        static_files.make(html.encode(), _PAGE),
    )


def _names() -> list[str]:
    folder = resources.files("busway.gateway.api").joinpath("static", _FOLDER)
    found = [each.name for each in folder.iterdir()]
    for sub in ("pages", "vendor"):
        found += [f"{sub}/{each.name}" for each in folder.joinpath(sub).iterdir()]
    return sorted(name for name in found if name[name.rfind(".") :] in MEDIA_TYPES)


_RELEASE = Prepared(_make)
