"""Writes the pages of the documentation site and builds it: `make docs`.

    python -m tools.documentation PROGRAMS

PROGRAMS is the folder with `mkdocs` and `oad` of `docs/site.lock`. The pages are those of docs/, README,
CHANGELOG and SECURITY, with links as they are on the site, and a reference: commands from their help, HTTP
from openapi.json, messages from asyncapi.json, Python from its docstrings. A warning is an error.
"""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "build" / "docs" / "pages"
ELSEWHERE = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "SECURITY.md": "security.md"}
FOLDERS = ("examples", "openapi")  # pages link to their files
PYTHON = ("busway", "busway.testing")
_LINK = re.compile(r"(?<=\]\()([^)#\s:]+)(?=[)#])")


def write_pages(programs: Path) -> None:
    """Write all pages into a new folder."""
    shutil.rmtree(PAGES, ignore_errors=True)
    (PAGES / "reference").mkdir(parents=True)
    sources = {path: path.relative_to(ROOT / "docs") for path in sorted((ROOT / "docs").rglob("*.md"))}
    sources |= {ROOT / name: Path(page) for name, page in ELSEWHERE.items()}
    for path, page in sources.items():
        (PAGES / page).parent.mkdir(exist_ok=True)
        (PAGES / page).write_text(linked(path, page, sources), encoding="utf-8")
    (PAGES / "decisions" / "index.md").write_text(decisions(), encoding="utf-8")
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, PAGES / "files" / folder, ignore=shutil.ignore_patterns("*.md", "__*"))
    for path in (ROOT / "docs").rglob("*"):
        if path.suffix in {".svg", ".png", ".webp"}:
            shutil.copy(path, PAGES / path.relative_to(ROOT / "docs"))
    document = json.loads((ROOT / "openapi/openapi.json").read_text(encoding="utf-8"))
    messages = json.loads((ROOT / "openapi/asyncapi.json").read_text(encoding="utf-8"))
    reference = {
        "commands": commands(),
        "http": operations(document, programs),
        "messages": frames(messages),
        "python": "# Python\n\n" + "\n\n".join(f"::: {name}" for name in PYTHON),
    }
    for name, text in reference.items():
        (PAGES / "reference" / f"{name}.md").write_text(text + "\n", encoding="utf-8")


def linked(path: Path, page: Path, sources: dict[Path, Path]) -> str:
    """Return the text of a page, with links to where things are on the site.

    Links to files that the site does not have become plain text.
    """
    depth = "../" * (len(page.parts) - 1)

    def place(found: re.Match[str]) -> str:
        target = (path.parent / found[0]).resolve()
        if target in sources:
            return depth + str(sources[target])
        relative = target.relative_to(ROOT)
        if relative.parts[0] == "docs":
            inside = relative.relative_to("docs")
            return depth + (f"{inside}/index.md" if target.is_dir() else str(inside))
        return f"{depth}files/{relative}" if relative.parts[0] in FOLDERS and target.is_file() else "-"

    text = _LINK.sub(place, path.read_text(encoding="utf-8"))
    return re.sub(r"\[([^\]]*)\]\(-[^)]*\)", r"\1", text)


def decisions() -> str:
    """Return a page with links to all decisions."""
    lines = ["# Decisions", "", "Why something is as it is, in the order in which it was decided.", ""]
    for path in sorted((ROOT / "docs/decisions").glob("*.md")):
        title = path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
        lines.append(f"- [{title}]({path.name})")
    return "\n".join(lines) + "\n"


def commands() -> str:
    """Return the help of all commands as a page."""
    words = [sys.executable, "-m", "typer", "busway.gateway.cli", "utils", "docs", "--name", "busway"]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    return done.stdout


def operations(document: dict[str, Any], programs: Path) -> str:
    """Return the operations of an OpenAPI document as a page.

    Problems are listed once for each operation, by their status alone: all have the same body.
    """
    document = copy.deepcopy(document)
    for path in document["paths"].values():
        for operation in path.values():
            problems = [status for status in operation["responses"] if status >= "400"]
            for status in problems:
                del operation["responses"][status]
            if problems:
                listed = ", ".join(f"`{status}`" for status in problems)
                operation["description"] = f"{operation.get('description', '')}\n\nProblems: {listed}."
    source, target = PAGES.parent / "operations.json", PAGES.parent / "operations.md"
    source.write_text(json.dumps(document), encoding="utf-8")
    subprocess.run(
        [programs / "oad", "gen-docs", "-s", source, "-d", target], check=True, capture_output=True
    )
    text = target.read_text(encoding="utf-8").replace("](asyncapi.json)", "](messages.md)")
    return re.sub(r"^# Busway .*$", "# HTTP operations", text, count=1, flags=re.MULTILINE)


def frames(document: dict[str, Any]) -> str:
    """Return the messages of an AsyncAPI document as a page: fields of each, and an example."""
    parts = ["# Messages of /v1/subscribe", document["info"]["description"]]
    for name, operation in document["operations"].items():
        parts.append(f"## {operation.get('title', name)}\n\n{operation.get('summary', '')}")
        for reference in operation["messages"]:
            message = _resolved(document, _resolved(document, reference))
            parts.append(f"### {message.get('title', message['name'])}\n\n{message.get('summary', '')}")
            parts.append(_fields(document, message["payload"]))
            for example in message.get("examples", [])[:1]:
                shown = json.dumps(example["payload"], indent=2, ensure_ascii=False)
                parts.append(f"```json\n{shown}\n```")
    return "\n\n".join(parts)


def _resolved(document: dict[str, Any], found: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in found:
        place: Any = document
        for part in found["$ref"].removeprefix("#/").split("/"):
            place = place[part.replace("~1", "/").replace("~0", "~")]
        found = place
    return found


def _fields(document: dict[str, Any], schema: dict[str, Any]) -> str:
    schema = _resolved(document, schema)
    lines = ["| field | type | |", "|---|---|---|"]
    for name, field in schema.get("properties", {}).items():
        told = _resolved(document, field)
        text = field.get("description", told.get("description", "")).replace("\n", " ").replace("|", "\\|")
        needed = " (required)" if name in schema.get("required", ()) else ""
        lines.append(f"| `{name}`{needed} | {_type(document, field)} | {text} |")
    return "\n".join(lines) if len(lines) > 2 else schema.get("description", "")


def _type(document: dict[str, Any], field: dict[str, Any]) -> str:
    told = _resolved(document, field)
    if "anyOf" in told:
        return " or ".join(_type(document, each) for each in told["anyOf"])
    if "const" in told or "enum" in told:
        return ", ".join(f"`{value}`" for value in told.get("enum", [told.get("const")]))
    kind = str(told.get("type", "any"))
    return f"array of {_type(document, told['items'])}" if kind == "array" and "items" in told else kind


def main() -> None:
    """Build the site, or say what is wrong with the pages."""
    programs = Path(sys.argv[1]).absolute()
    write_pages(programs)
    command = [programs / "mkdocs", "build", "--config-file", ROOT / "docs/mkdocs.yml"]
    # --quiet would count no warnings.
    done = subprocess.run(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
    )  # fmt: skip
    if done.returncode:
        sys.exit("\n".join(line for line in done.stdout.splitlines() if not line.startswith("INFO")))
    print(f"the site is in {(PAGES.parent / 'site').relative_to(ROOT)}")


if __name__ == "__main__":
    main()
