"""The documentation as a site: `make docs`. A warning, such as a link to nowhere, is an error."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = ROOT / "build" / "docs" / "site"


def make() -> subprocess.CompletedProcess[str]:
    return subprocess.run(["make", "docs"], cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.long
def test_the_site_has_all_pages_and_no_warning() -> None:
    done = make()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= {
        path.stem for path in PAGES.glob("*.html")
    }
    text = {name: (PAGES / f"reference/{name}.html").read_text(encoding="utf-8") for name in NEEDED}
    for name, needed in NEEDED.items():
        assert not [each for each in needed if each not in text[name]], name


NEEDED = {
    "commands": ("busway serve", "--retention", "busway doctor"),
    "http": ("/v1/events", "/v1/handlers/{name}/replay"),
    "messages": ("subscribed", "recovered"),
    "python": ("SyncClient", "busway.testing.context"),
}


def test_each_page_is_in_the_navigation_once() -> None:
    text = (ROOT / "docs/mkdocs.yml").read_text(encoding="utf-8")
    named = re.findall(r": ([a-z-]+\.md)$", text, re.MULTILINE)
    others = {"index.md", "changelog.md", "security.md"}
    assert sorted(named) == sorted({path.name for path in (ROOT / "docs").glob("*.md")} | others)
