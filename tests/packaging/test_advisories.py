"""Which locked versions an advisory concerns, and the snapshot of a database in the OSV format."""

from __future__ import annotations

import json
import re
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from packaging.version import Version

from tools import advisories

ADVISORY = """
id: PYSEC-1
aliases: [CVE-1]
details: |
  It is
  broken.
affected:
- package: {name: SQLAlchemy, ecosystem: PyPI}
  ranges:
  - type: GIT
    events: [{introduced: "0"}]
  - type: ECOSYSTEM
    events: [{introduced: "0"}, {fixed: 1.3.0}, {introduced: 2.0.0}, {last_affected: 2.0.9}]
  - type: ECOSYSTEM
    events: [{introduced: "99"}]
  versions: [0.9]
- package: {name: never-locked, ecosystem: PyPI}
"""


@pytest.fixture
def snapshot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    (tmp_path / "vulns").mkdir()
    (tmp_path / "vulns" / "PYSEC-1.yaml").write_text(ADVISORY)
    withdrawn = {
        "id": "X",
        "withdrawn": "2026-01-01T00:00:00Z",
        "modified": "2026-01-02T00:00:00Z",
        "affected": [],
    }
    (tmp_path / "vulns" / "X.json").write_text(json.dumps(withdrawn))
    monkeypatch.setattr(advisories, "SNAPSHOT", tmp_path / "advisories.json")
    assert advisories.write(tmp_path / "vulns").endswith(
        "1 advisories of 1 locked packages, the newest of 2026-01-02"
    )
    found: dict[str, Any] = json.loads((tmp_path / "advisories.json").read_text())
    return found


def test_a_snapshot_says_which_versions_are_concerned(snapshot: dict[str, Any]) -> None:
    packages = snapshot["packages"]
    (advisory,) = packages["sqlalchemy"]
    assert (advisory["id"], advisory["summary"]) == ("PYSEC-1", "It is broken.")
    for version, concerned in (
        ("0.1.dev1", True), ("1.2.99", True), ("1.3.0", False), ("1.3.0rc1", True), ("1.9", False),
        ("2.0.0", True), ("2.0.9", True), ("2.0.9.post1", False), ("3", False), ("99.1", True),
        ("odd!", True),
    ):  # fmt: skip
        assert advisories.affects(advisory, version) is concerned, version
    locked = {"sqlalchemy": ["1.2.0"], "other": ["1.0"]}
    assert advisories.findings(packages, locked, "") == ["sqlalchemy 1.2.0: PYSEC-1 (CVE-1): It is broken."]
    assert advisories.findings(packages, locked, "| `CVE-1` | because |") == []
    assert advisories.findings(packages, {"sqlalchemy": ["1.3.0"]}, "") == []


def test_without_a_snapshot_the_faults_that_are_written_by_hand_are_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(advisories, "SNAPSHOT", tmp_path / "advisories.json")
    wrong, text = advisories.check(date(2026, 1, 2))
    assert wrong == []
    assert "are not all" in text
    answers = (tmp_path / "answers.md").resolve()
    answers.write_text("")
    monkeypatch.setattr(advisories, "ANSWERS", answers)
    wrong, _ = advisories.check(date(2026, 1, 2))
    assert [line for line in wrong if line.startswith("h2 3.2.0: CVE-2025-57804")]


def test_the_faults_that_are_written_by_hand_can_be_compared() -> None:
    packages, until = advisories.by_hand()
    assert set(packages) <= set(advisories.locked()), "remove the packages that are not locked"
    assert until <= datetime.now(UTC).date()
    for name, found in packages.items():
        assert len({advisory["id"] for advisory in found}) == len(found), name
        for advisory in found:
            [(first, fixed, _)] = advisory["ranges"]
            assert re.fullmatch(r"CVE-\d{4}-\d{4,}|GHSA(-[2-9a-z]{4}){3}|PYSEC-\d{4}-\d+", advisory["id"])
            assert advisory["summary"], advisory["id"]
            assert fixed is None or Version(first) < Version(fixed), advisory["id"]
            affected = "0.1" if first == "0" else first
            assert advisories.affects(advisory, affected), advisory["id"]
            assert fixed is None or not advisories.affects(advisory, fixed), advisory["id"]


def test_answers_are_about_versions_that_are_locked() -> None:
    answers = "| advisory | package | why |\n| --- | --- | --- |\n| `PYSEC-1` | `idna` 2.5 | because |\n"
    assert advisories.outdated({"idna": ["2.5", "3.0"]}, answers) == []
    assert advisories.outdated({"idna": ["3.0"]}, answers) == [
        "`PYSEC-1`: the answer is about idna 2.5, which is not locked"
    ]
    kept = advisories.ANSWERS.read_text(encoding="utf-8")
    assert len(advisories._ANSWER.findall(kept)) == kept.split("## Advisories")[1].count("\n| `")
