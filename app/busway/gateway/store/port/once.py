"""Idempotency keys in operations and replies."""

from __future__ import annotations

import msgspec

IDEMPOTENT_FOR = 86_400_000_000
"""Microseconds for which an idempotency key is kept."""


class Once(msgspec.Struct, array_like=True, kw_only=True):
    """An idempotency key. Of the publications with one key of one owner only the first is stored.

    `owner`: the API key that sent it, 0 without keys. `digest`: of the request. The key is forgotten
    `IDEMPOTENT_FOR` after `now`. `most`: keys that one owner may have.
    """

    owner: int
    key: str
    digest: bytes = b""
    now: int
    most: int = 1 << 62


KeptReceipt = tuple[int, str, str, str, int, bool]
"""The fields of a receipt: number, id, source and type of the event, how many runs, whether it existed."""


class NotStored(msgspec.Struct):
    """The reply to a `Publish` whose idempotency key kept it from being stored.

    `receipts`: of the first publication with this key. None: it had another digest, or, if `full`, the owner
    has too many keys.
    """

    receipts: list[KeptReceipt] | None = None
    full: bool = False
