"""What the pages show besides commands and code: data that the gateway takes or sends, files, and names."""

from __future__ import annotations

import json
import re
from pathlib import Path

import msgspec
import pytest
from busway.contract.frames import AuthenticateFrame
from busway.contract.problems import Problem
from busway.contract.uploads import UploadResult
from busway.domain.filter import compile_filter
from busway.gateway.access import keysfile
from busway.gateway.settings import Settings

from .console import blocks

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
DATA = {
    "access": lambda text: msgspec.json.decode(text, type=AuthenticateFrame),
    "filters": lambda text: compile_filter(json.loads(text)),
    "formats": json.loads,
    "http": lambda text: msgspec.json.decode(text, type=Problem),
    "ndjson": lambda text: msgspec.json.decode(text, type=UploadResult),
}
NOT_OURS = (
    r"comparison\.md .*|.*/v1/(chat/completions|traces|subscribe|hooks)|"
    r".*BUSWAY_(SECRET|TEST|BENCH)_.*"
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_the_data_of_a_page_has_its_form(page: Path) -> None:
    for block in blocks(page):
        if block.language == "json":
            DATA[page.stem](block.text)
        elif block.language == "toml" and page.stem == "access":
            assert keysfile.parse(block.text.encode())
        elif block.language == "dockerfile":
            assert (ROOT / "examples/deploy/Dockerfile").read_text(encoding="utf-8").endswith(block.text)


def test_paths_and_variables_exist() -> None:
    document = json.loads((ROOT / "openapi/openapi.json").read_text(encoding="utf-8"))
    paths = "|".join(re.sub(r"\{\w+\}", "[^/]+", path) for path in document["paths"])
    variables = {f"BUSWAY_{name.upper()}" for name in Settings.model_fields} | {"BUSWAY_URL", "BUSWAY_KEY"}
    unknown = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        named = [name for name in re.findall(r"/v1/[\w/.{}-]*\w", text) if not re.fullmatch(paths, name)]
        named += {*re.findall(r"BUSWAY_[A-Z_]+", text)} - variables
        unknown += [f"{page.name} {name}" for name in named]
    assert [name for name in unknown if not re.fullmatch(NOT_OURS, name)] == []
