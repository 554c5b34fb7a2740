"""`completes`: which result leaves a root event, and all that came of it, without an unfinished run.

A run that is its root's only one and starts no others needs no counter: its end completes the root.
Every other root has a counter row until it completes; then the row goes, and so nothing that is
retried or replayed later can complete the root again.
"""

from __future__ import annotations

import msgspec

from busway.gateway.store.sqlite.ledger import Ledger, RunRow, TreeRow
from busway.gateway.store.sqlite.schema import ALONE, CANCELLED, COUNTED, DEAD, OUTSIDE, STATES, SUCCEEDED

_FIELDS = {SUCCEEDED: "succeeded", DEAD: "dead", CANCELLED: "cancelled"}


def begin(ledger: Ledger, root: int, started: int) -> int:
    """Begin the tree of a new root event that starts so many runs; return how they are counted."""
    if started == 1:
        return ALONE
    if started > 1:
        ledger.put_tree(TreeRow(root, started))
    return COUNTED


def step(ledger: Ledger, run: RunRow, ended: int | None, started: int) -> str | None:
    """Count what an attempt did: its run ended in a final state (or not: None) and started other runs.

    Returns:
        `completes` as JSON text if nothing is unfinished now, else None.
    """
    if run.counted == OUTSIDE:
        return None
    if run.counted == ALONE and not started:
        return None if ended is None else msgspec.json.encode({STATES[ended]: 1}).decode()
    tree = TreeRow(run.root, 1) if run.counted == ALONE else ledger.tree(run.root)
    if tree is None:
        return None
    run.counted = COUNTED
    tree.unfinished += started
    if ended is not None:
        _count(tree, ended, 1)
    if tree.unfinished:
        ledger.put_tree(tree)
        return None
    ledger.drop_tree(tree.root)
    counts = {STATES[state]: getattr(tree, field) for state, field in _FIELDS.items()}
    return msgspec.json.encode({state: n for state, n in counts.items() if n}).decode()


def reopen(ledger: Ledger, run: RunRow) -> None:
    """Count a run that ended and is retried by hand as unfinished, unless its root completed already."""
    tree = ledger.tree(run.root) if run.counted == COUNTED else None
    if tree is None:
        run.counted = OUTSIDE
        return
    _count(tree, run.state, -1)
    ledger.put_tree(tree)


def _count(tree: TreeRow, state: int, n: int) -> None:
    field = _FIELDS[state]
    setattr(tree, field, getattr(tree, field) + n)
    tree.unfinished -= n
