"""The simulation of cells, and the page that shows its tables."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def simulated(*words: str) -> str:
    command = [sys.executable, "-m", "benchmarks.cells", *words]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def test_the_page_has_the_tables_of_the_simulation() -> None:
    page = (ROOT / "docs/scale.md").read_text(encoding="utf-8")
    tables = simulated().strip().split("\n\n")
    assert len(tables) == 4
    assert [table for table in tables if f"\n\n{table}\n\n" not in page] == []


def test_another_seed_gives_other_hashes_and_the_same_conclusions() -> None:
    first, other = (simulated("--seed", seed).split("\n\n") for seed in ("1", "2"))
    assert first[0] != other[0]
    for balance, growth, *_ in (first, other):
        rows = [line.split(" | ") for line in balance.splitlines()[2:]]
        assert all(float(by_tenant) >= float(by_key[:4]) for *_, by_tenant, by_key in rows)
        moved = [line.strip("| ").split(" | ")[3:] for line in growth.splitlines()[2:]]
        assert all(int(slots[:-1]) <= int(modulo[:-1]) for slots, modulo in moved)
