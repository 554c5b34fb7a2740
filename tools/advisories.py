"""Check the locked packages against known faults. The check needs no network.

    python -m tools.advisories write FOLDER     make a snapshot of an advisory database
    python -m tools.advisories check

It compares the faults in `tools/advisories.toml`, which are written by hand and are not all, and those of a
snapshot, if there is one. FOLDER has advisories in the OSV format, as files of JSON or YAML: a checkout of
`pypa/advisory-database` or `github/advisory-database`, or an unpacked export of osv.dev. The snapshot,
`advisories.json`, has what they say about the packages of the lock files. An advisory that concerns a locked
version must be answered in docs/dependencies.md, in a line that names it, the package and its locked version.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import yaml
from packaging.version import InvalidVersion, Version

from tools.locks import LOCKS, ROOT, canonical, read

SNAPSHOT = ROOT / "advisories.json"
BY_HAND = ROOT / "tools/advisories.toml"
ANSWERS = ROOT / "docs/dependencies.md"
OLD = 90  # days
_ANSWER = re.compile(r"^\| (`[^|]+) \| `([^`|]+)` ([^ |]+) \|", re.MULTILINE)
_YAML = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def locked() -> dict[str, set[str]]:
    """Return the versions of each package in the lock files."""
    found: dict[str, set[str]] = {}
    for name in LOCKS:
        for entry in read((ROOT / name).read_text(encoding="utf-8"))[0]:
            found.setdefault(entry.name, set()).add(entry.version)
    return found


def affects(advisory: Mapping[str, Any], version: str) -> bool:
    """Return whether an advisory of the snapshot concerns a version.

    A range begins with a version, and ends before the one that fixes it, or with the last affected one.
    """
    if version in advisory["versions"]:
        return True
    try:
        mine = Version(version)
        return any(
            Version(first if first != "0" else "0.dev0") <= mine
            and (fixed is None or mine < Version(fixed))
            and (last is None or mine <= Version(last))
            for first, fixed, last in advisory["ranges"]
        )
    except InvalidVersion:
        return True  # nobody can say: a person must look


def findings(
    packages: Mapping[str, Sequence[Mapping[str, Any]]], versions: Mapping[str, Iterable[str]], answers: str
) -> list[str]:
    """Return which advisories concern a locked version and have no answer."""
    return [
        f"{name} {version}: {advisory['id']} ({', '.join(advisory['aliases'])}): {advisory['summary']}"
        for name, advisories in sorted(packages.items())
        for version in sorted(versions.get(name, ()))
        for advisory in advisories
        if affects(advisory, version) and not any(f"`{id_}`" in answers for id_ in _names(advisory))
    ]


def outdated(versions: Mapping[str, Iterable[str]], answers: str) -> list[str]:
    """Return the answers that are about a version which is not locked."""
    return [
        f"{id_}: the answer is about {name} {version}, which is not locked"
        for id_, name, version in _ANSWER.findall(answers)
        if version not in versions.get(canonical(name), ())
    ]


def write(folder: Path) -> str:
    """Write the snapshot, and return what it is made of."""
    wanted, packages = locked(), dict[str, list[dict[str, Any]]]()
    newest = ""
    for advisory in _advisories(folder):
        newest = max(newest, str(advisory.get("modified", "")))
        if advisory.get("withdrawn"):
            continue
        for affected in advisory.get("affected", ()):
            package = affected.get("package", {})
            name = canonical(str(package.get("name", "")))
            if package.get("ecosystem") == "PyPI" and name in wanted:
                packages.setdefault(name, []).append(_entry(advisory, affected))
    if not newest:
        raise SystemExit(
            f"{folder} has no advisories in the OSV format: give a checkout of a database of advisories"
        )
    snapshot = {
        "commit": _commit(folder),
        "newest": newest[:10],
        "packages": {
            name: sorted(found, key=lambda each: each["id"]) for name, found in sorted(packages.items())
        },
    }
    SNAPSHOT.write_text(json.dumps(snapshot, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    count = sum(map(len, packages.values()))
    return (
        f"{SNAPSHOT.name}: {count} advisories of {len(packages)} locked packages, the newest of {newest[:10]}"
    )


def check(today: date) -> tuple[list[str], str]:
    """Return what is wrong with the locked packages, and what was compared."""
    versions, answers = locked(), ANSWERS.read_text(encoding="utf-8")
    wrong = [f"{line}: remove it from docs/dependencies.md" for line in outdated(versions, answers)]
    packages, until = by_hand()
    wrong += _unanswered(packages, versions, answers)
    if not SNAPSHOT.exists():
        count = sum(map(len, packages.values()))
        return wrong, (
            f"no locked package has a fault of the {count} in {BY_HAND.relative_to(ROOT)} without an answer. "
            f"They are written by hand, until {until}, and are not all: before a release, take a database as "
            "well (`make advisories CHECKOUT=FOLDER`), or ask the package index (`make advisories`)"
        )
    snapshot = json.loads(SNAPSHOT.read_text(encoding="utf-8"))
    wrong += _unanswered(snapshot["packages"], versions, answers)
    age = (today - date.fromisoformat(snapshot["newest"])).days
    text = f"advisories until {snapshot['newest']}" + (f", which is {age} days ago" if age > OLD else "")
    return wrong, f"no locked package has a fault that is known here and has no answer: {text}"


def by_hand() -> tuple[dict[str, list[dict[str, Any]]], date]:
    """Return the faults that are written by hand, by package as in a snapshot, and until when."""
    read_ = tomllib.loads(BY_HAND.read_text(encoding="utf-8"))
    packages = {
        name: [
            {
                "id": id_,
                "aliases": [],
                "summary": summary,
                "ranges": [(first, fixed or None, None)],
                "versions": [],
            }
            for id_, first, fixed, summary in entries
        ]
        for name, entries in read_["packages"].items()
    }
    return packages, read_["until"]


def _unanswered(
    packages: Mapping[str, Sequence[Mapping[str, Any]]], versions: Mapping[str, Iterable[str]], answers: str
) -> list[str]:
    return [
        f"{line}: update it (make lock), or answer in docs/dependencies.md why it does no harm"
        for line in findings(packages, versions, answers)
    ]


def _names(advisory: Mapping[str, Any]) -> list[str]:
    return [advisory["id"], *advisory["aliases"]]


def _entry(advisory: Mapping[str, Any], affected: Mapping[str, Any]) -> dict[str, Any]:
    ranges = []
    for each in affected.get("ranges", ()):
        if each.get("type") == "ECOSYSTEM":
            ranges += [*_ranges(each.get("events", ()))]
    versions = [] if ranges else [str(version) for version in affected.get("versions", ())]
    text = str(advisory.get("summary") or advisory.get("details") or "")
    return {
        "id": str(advisory["id"]),
        "aliases": sorted(map(str, advisory.get("aliases", ()))),
        "summary": " ".join(text.split())[:200],
        "ranges": ranges,
        "versions": versions,
    }


def _ranges(events: Iterable[Mapping[str, Any]]) -> Iterator[tuple[str, str | None, str | None]]:
    first: str | None = None
    for event in events:
        if "introduced" in event:
            first = str(event["introduced"])
        elif first is not None and ("fixed" in event or "last_affected" in event):
            fixed, last = event.get("fixed"), event.get("last_affected")
            yield first, None if fixed is None else str(fixed), None if last is None else str(last)
            first = None
    if first is not None:
        yield first, None, None


def _read_yaml(text: str) -> Any:
    return yaml.load(text, _YAML)  # noqa: S506 # nosec B506 - a safe loader


def _advisories(folder: Path) -> Iterator[Mapping[str, Any]]:
    for path in sorted(folder.rglob("*")):
        if path.suffix not in {".json", ".yaml"} or ".git" in path.relative_to(folder).parts:
            continue
        text = path.read_text(encoding="utf-8")
        found = json.loads(text) if path.suffix == ".json" else _read_yaml(text)
        if isinstance(found, dict) and "id" in found and "affected" in found:
            yield found


def _commit(folder: Path) -> str:
    command = ["git", "-C", str(folder), "log", "-1", "--format=%H"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def main() -> int:
    """Write or check the snapshot. Return the exit status."""
    match sys.argv[1:]:
        case ["write", folder]:
            print(write(Path(folder)))
        case ["check"]:
            pass
        case _:
            print(__doc__, file=sys.stderr)
            return 2
    wrong, text = check(datetime.now(UTC).date())
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(text)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
