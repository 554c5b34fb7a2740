"""Operations that remove what is older than it is kept, besides events and results."""

from __future__ import annotations

from busway.gateway.store.port.operations import Operation


class PruneKeys(Operation, kw_only=True):
    """Forget up to `limit` idempotency keys that were stored before `before`. Reply: how many."""

    before: int
    limit: int


class PruneReplays(Operation, kw_only=True):
    """Remove up to `limit` replays that finished before `before` and have no stored runs. Reply: how many.

    The newest replay stays, so that no number is given twice.
    """

    before: int
    limit: int
