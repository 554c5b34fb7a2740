"""A simulation of cells: how load spreads, how a deployment grows, and what a lost cell means.

`python -m benchmarks.cells` prints the tables of `docs/scale.md`. The same seed gives the same tables.

A cell is one Busway on one PostgreSQL database. Tenants are hashed to slots, and a table that routers share
maps slots to cells. So a new cell gets some slots of each other cell, and nothing else moves.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import statistics
from collections import defaultdict
from collections.abc import Iterable

TENANTS = 10_000
KEYS = 100  # partition keys of a tenant, of equal load
SLOTS = 1_024
SKEWS = {"equal": 0.0, "mild": 0.8, "strong": 1.0}  # exponents of Zipf's law
CELLS = (4, 16, 64)
TRIES = 5  # other hashes, from the same seed
FULL = 0.7  # of a cell's capacity; above it, there is another cell
STEPS = (0.6, 1, 1.5, 2, 3, 5, 8, 12, 20, 30)  # load, in capacities of one cell
OUTAGE, OUTAGES = 60, 4  # seconds of an outage; in a year, of each cell
LOADS = (0.5, 0.7, 0.85, 0.95)

Rows = list[tuple[str, ...]]


@functools.cache
def slot(name: str, seed: int) -> int:
    """Return the slot of a tenant, or of a tenant's key."""
    digest = hashlib.blake2b(name.encode(), digest_size=8, salt=seed.to_bytes(8, "big"))
    return int.from_bytes(digest.digest(), "big") % SLOTS


@functools.cache
def shares(skew: float) -> list[float]:
    """Return each tenant's share of the load, the largest one first."""
    weights = [1 / rank**skew for rank in range(1, TENANTS + 1)]
    total = sum(weights)
    return [weight / total for weight in weights]


def slots_by_tenant(skew: float, seed: int) -> list[float]:
    """Return the share of each slot if a tenant is in one cell."""
    found = [0.0] * SLOTS
    for tenant, share in enumerate(shares(skew)):
        found[slot(f"tenant {tenant}", seed)] += share
    return found


def slots_by_key(skew: float, seed: int, large: float) -> list[float]:
    """Return the share of each slot if tenants with more than `large` of the load are spread by key."""
    found = [0.0] * SLOTS
    for tenant, share in enumerate(shares(skew)):
        names = [f"tenant {tenant}"]
        if share > large:
            names = [f"tenant {tenant} key {key}" for key in range(KEYS)]
        for name in names:
            found[slot(name, seed)] += share / len(names)
    return found


def busiest(slots: Iterable[float], cells: int) -> float:
    """Return the load of the busiest cell, in means of all cells, where slots are dealt out in turn."""
    loads: dict[int, float] = defaultdict(float)
    for number, share in enumerate(slots):
        loads[number % cells] += share
    return max(loads.values()) * cells


def balance(seed: int) -> Rows:
    """Return how much more than the mean the busiest cell gets."""
    rows: Rows = [("load of tenants", "cells", "tenant in one cell", "large tenants by key")]
    for name, skew in SKEWS.items():
        tried = [
            (slots_by_tenant(skew, seed + n), slots_by_key(skew, seed + n, 1 / SLOTS)) for n in range(TRIES)
        ]
        for cells in CELLS:
            columns = [
                statistics.median(busiest(each[way], cells) for each in tried) for way in range(len(tried[0]))
            ]
            rows.append((name, str(cells), *(f"{column:.2f}" for column in columns)))
    return rows


class Map:
    """Which cell has which slot."""

    def __init__(self, slots: list[float]) -> None:
        self._slots = slots
        self.cells = [list(range(SLOTS))]

    def loads(self) -> list[float]:
        """Return the share of each cell."""
        return [sum(self._slots[slot] for slot in cell) for cell in self.cells]

    def grow(self) -> float:
        """Add a cell, and give it slots of the fullest ones up to the mean. Return the share that moves."""
        self.cells.append([])
        loads, mean = self.loads(), 1 / len(self.cells)
        while True:
            fullest = max(range(len(loads) - 1), key=loads.__getitem__)
            slot = self.cells[fullest].pop()
            share = self._slots[slot]
            if loads[-1] + share > mean:
                self.cells[fullest].append(slot)
                return loads[-1]
            self.cells[-1].append(slot)
            loads[fullest] -= share
            loads[-1] += share


def growth(seed: int) -> Rows:
    """Return the cells that a growing load needs, and what moves: with slots, and with `hash % cells`."""
    cells = Map(slots_by_key(SKEWS["strong"], seed, 1 / SLOTS))
    rows: Rows = [("load", "cells", "busiest", "load that moves", "with hash % cells")]
    for load in STEPS:
        moved, before = 0.0, len(cells.cells)
        while max(cells.loads()) * load > FULL:
            moved += cells.grow()
        now = len(cells.cells)
        # A tenant stays where it is if both remainders are equal.
        stays = sum(slot % before == slot % now for slot in range(before * now)) / (before * now)
        rows.append(
            (f"{load:g}", str(now), f"{max(cells.loads()) * load:.0%}", f"{moved:.0%}", f"{1 - stays:.0%}")
        )
    return rows


def loss(seed: int) -> Rows:
    """Return what part of the load waits while one cell is down, and how long in a year."""
    slots = slots_by_key(SKEWS["strong"], seed, 1 / SLOTS)
    rows: Rows = [("cells", "load that waits", "if it is the busiest", "a tenant waits", "some tenant waits")]
    for cells in (1, *CELLS):
        most = busiest(slots, cells) / cells
        some = cells * OUTAGES * OUTAGE  # outages are short, so that two at once hardly count
        rows.append(
            (str(cells), f"{1 / cells:.1%}", f"{most:.1%}", f"{OUTAGES * OUTAGE} s/year", f"{some} s/year")
        )
    return rows


def recovery() -> Rows:
    """Return how long a cell takes to catch up with what publishers send again after an outage."""
    rows: Rows = [("load of the cell", f"caught up after an outage of {OUTAGE} s")]
    rows += [(f"{load:.0%}", f"{OUTAGE * load / (1 - load):.0f} s") for load in LOADS]
    return rows


def table(rows: Rows) -> str:
    """Return rows as a table of Markdown."""
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--seed", type=int, default=1)
    seed = parser.parse_args().seed
    print("\n\n".join(table(rows) for rows in (balance(seed), growth(seed), loss(seed), recovery())))


if __name__ == "__main__":
    main()
