"""Read the lock files, and check what can be checked of them without a network.

    python -m tools.locks

Whether a version has known faults is not among it: see `tools.advisories`.
"""

from __future__ import annotations

import re
import sys
from importlib import metadata
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
LOCKS = (
    "requirements.lock",
    "requirements-dev.lock",
    "benchmarks/requirements.lock",
    "benchmarks/peers.lock",
    "benchmarks/crossbar.lock",
    "tests/documents/node.lock",
    "docs/site.lock",
)
INSTALLED = {"requirements-dev.lock", "tests/documents/node.lock"}  # in the environment of checks and tests
OWN = {"busway", "pip", "setuptools"}
_PIN = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^\]]*\])?==([^\s;\\]+)(?:\s*;\s*([^\\]+?))?\s*\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


class Locked(NamedTuple):
    """One entry of a lock file. `marker`: for which Pythons and systems it is, empty for all."""

    name: str
    version: str
    marker: str
    hashes: tuple[str, ...]


def read(text: str) -> tuple[list[Locked], list[str]]:
    """Return the entries of a lock file, and its lines that are none."""
    entries: list[Locked] = []
    others: list[str] = []
    for block in re.split(r"\n(?=[^\s#])", re.sub(r"^\s*#.*\n?", "", text, flags=re.MULTILINE)):
        if not block.strip():
            continue
        first, *_ = block.strip().split("\n")
        pin, hashes = _PIN.match(first.strip()), tuple(_HASH.findall(block))
        if pin and hashes:
            entries.append(Locked(canonical(pin[1]), pin[2], pin[3] or "", hashes))
        else:
            others.append(first.strip())
    return entries, others


def canonical(name: str) -> str:
    """Return the name of a package as the registry spells it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def faults() -> list[str]:
    """Return what is wrong with the lock files and with what is installed here."""
    found: list[str] = []
    locked: dict[str, set[str]] = {}
    for name in LOCKS:
        entries, others = read((ROOT / name).read_text(encoding="utf-8"))
        found += [f"{name}: {line!r} is not one version with its hashes: run make lock" for line in others]
        if name in INSTALLED:
            for entry in entries:
                locked.setdefault(entry.name, set()).add(entry.version)
    for each in metadata.distributions():
        name = canonical(each.name)
        if name not in OWN and each.version not in locked.get(name, set()):
            found.append(f"{name} {each.version} is installed here, and not locked: run make .venv/.dev")
    explained = (ROOT / "docs/dependencies.md").read_text(encoding="utf-8")
    for line in metadata.requires("busway") or ():
        direct = canonical(re.split(r"[\s<>=!~;\[]", line, maxsplit=1)[0])
        if f"`{direct}`" not in explained:
            found.append(f"{direct} has no line in docs/dependencies.md that says why it is here")
    return found


def main() -> int:
    """Print what is wrong. Return the exit status."""
    wrong = faults()
    for line in wrong:
        print(line, file=sys.stderr)
    if not wrong:
        print(f"{len(LOCKS)} lock files: each package has one version with hashes, and a reason")
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
