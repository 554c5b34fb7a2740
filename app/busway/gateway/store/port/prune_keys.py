"""Operations on idempotency keys."""

from __future__ import annotations

from busway.gateway.store.port.operations import Operation


class PruneKeys(Operation, kw_only=True):
    """Forget up to `limit` idempotency keys that were stored before `before`. Reply: how many."""

    before: int
    limit: int
