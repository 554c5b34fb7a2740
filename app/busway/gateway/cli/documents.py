"""`busway openapi`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from busway.gateway.cli.options import DryRun, Json, need_server
from busway.gateway.cli.output import print_json, print_plan
from busway.gateway.errors import BadSettings


def openapi(
    folder: Annotated[Path, typer.Argument(help="Folder for the two documents.")] = Path("openapi"),
    dry_run: DryRun = False,
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
    documents = {
        file: json.dumps(document, indent=2) + "\n"
        for file, document in (
            (folder / "openapi.json", rest.openapi()),
            (folder / "asyncapi.json", asyncapi.document()),
        )
    }
    if dry_run:
        for file, text in documents.items():
            same = file.exists() and file.read_text(encoding="utf-8") == text
            would = f"leave {file} as it is" if same else f"write {file}"
            print_plan(would, json_lines=json_lines, file=str(file), changes=not same)
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for file, text in documents.items():
            file.write_text(text, encoding="utf-8")
    except OSError as problem:
        raise BadSettings(f"the folder {str(folder)!r} cannot be written: {problem.strerror}") from None
    if json_lines:
        print_json([{"file": str(file)} for file in documents])
    else:
        typer.echo("\n".join(map(str, documents)))
