"""`completes`: finds the result after which a root event and its descendants have no unfinished run.

A root with a single run that starts no others needs no counter: the end of the run completes the root.
Every other root has a counter row (table `trees`) until it completes. Then the row is deleted, so that later
retries and replays cannot complete the root again.
"""

from __future__ import annotations

import msgspec

from busway.gateway.store.core.ledger import Ledger, RunRow, TreeRow
from busway.gateway.store.core.schema import ALONE, CANCELLED, COUNTED, DEAD, OUTSIDE, STATES, SUCCEEDED

_FIELDS = {SUCCEEDED: "succeeded", DEAD: "dead", CANCELLED: "cancelled"}


def begin(ledger: Ledger, root: int, started: int) -> int:
    """Start counting for a new root event with `started` runs. Return how its runs are counted."""
    if started == 1:
        return ALONE
    if started > 1:
        ledger.put_tree(TreeRow(root, started))
    return COUNTED


def step(ledger: Ledger, run: RunRow, ended: int | None, started: int) -> str | None:
    """Count an attempt of a root's run: it started `started` other runs.

    `ended` is the final state of the run, None if the run is not finished.

    Returns:
        `completes` as JSON text if no run of the root is unfinished now, else None.
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
    """Count a run that is retried manually as unfinished, unless its root has completed."""
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
