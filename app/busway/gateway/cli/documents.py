"""`busway openapi`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from busway.gateway.cli.options import Json, need_server
from busway.gateway.cli.output import print_json
from busway.gateway.errors import BadSettings


def openapi(
    folder: Annotated[Path, typer.Argument(help="Folder for the two documents.")] = Path("openapi"),
    json_lines: Json = False,
) -> None:
    """Write the OpenAPI and AsyncAPI documents.

    The files are openapi.json and asyncapi.json.
    """
    need_server()
    from fastapi import FastAPI  # noqa: PLC0415 - only this command needs these

    from busway.gateway.api.routes import describe  # noqa: PLC0415
    from busway.gateway.subscribers import asyncapi  # noqa: PLC0415

    rest = describe(FastAPI(openapi_url=None, docs_url=None, redoc_url=None))
    documents = {folder / "openapi.json": rest.openapi(), folder / "asyncapi.json": asyncapi.document()}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, document in documents.items():
            file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    except OSError as problem:
        raise BadSettings(f"the folder {str(folder)!r} cannot be written: {problem.strerror}") from None
    if json_lines:
        print_json([{"file": str(file)} for file in documents])
    else:
        typer.echo("\n".join(map(str, documents)))
