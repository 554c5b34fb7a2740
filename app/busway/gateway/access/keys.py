"""API keys: those in the store, and those that the keys file declares."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable
from typing import Literal

from busway.gateway.access.scopes import Access
from busway.gateway.errors import Unauthorized
from busway.gateway.store.port.reader import KeyRecord

PREFIX = "bw_"
DECLARED = 1 << 40
"""The least id of a key of the keys file. Those in the store are counted from 1."""
_KEY = re.compile(r"bw_([0-9]{1,18})_(.{1,200})", re.ASCII)


def new_secret() -> tuple[str, bytes]:
    """Return a new secret for an API key, and the digest that is kept of it."""
    secret = secrets.token_urlsafe(32)
    return secret, digest(secret)


def digest(secret: str) -> bytes:
    """Return the digest of a secret. It has 256 random bits, so a plain SHA-256 is safe."""
    return hashlib.sha256(secret.encode()).digest()


def key_text(id_: int, secret: str) -> str:
    """Return the text of an API key, which is shown once."""
    return f"{PREFIX}{id_}_{secret}"


def declared_id(digest_: bytes) -> int:
    """Return the id of a key of the keys file. It follows from the digest, so nothing has to assign it."""
    return DECLARED + int.from_bytes(digest_[:5])


class Keys:
    """The API keys by id.

    Args:
        clock: microseconds since 1970.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._stored: dict[int, KeyRecord] = {}
        self._declared: dict[int, KeyRecord] = {}
        self._records: dict[int, KeyRecord] = {}
        self._accesses: dict[int, Access] = {}
        self._used: set[int] = set()

    def __len__(self) -> int:
        return len(self._records)

    @property
    def declared(self) -> list[KeyRecord]:
        """The keys of the keys file, by id."""
        return [self._declared[id_] for id_ in sorted(self._declared)]

    def load(self, stored: Iterable[KeyRecord]) -> bool:
        """Replace the keys of the store. Return whether anything has changed."""
        return self._replace({key.id: key for key in stored}, self._declared)

    def declare(self, declared: Iterable[KeyRecord]) -> bool:
        """Replace the keys of the keys file. Return whether anything has changed."""
        return self._replace(self._stored, {key.id: key for key in declared})

    def valid(self) -> set[int]:
        """Return the ids of the keys that are valid now."""
        return {key.id for key in self._records.values() if self._is_valid(key)}

    def identify(self, text: str) -> Access:
        """Return the access of a key.

        Raises:
            Unauthorized: it is malformed, unknown, expired or revoked.
        """
        form = _KEY.fullmatch(text)
        if form is None:
            raise Unauthorized(
                "malformed API key: expected `Authorization: Bearer bw_…`", reason="malformed API key"
            )
        key, secret = self._records.get(int(form[1])), form[2]
        if not hmac.compare_digest(digest(secret), key.digest if key else b"") or key is None:
            raise Unauthorized(
                "unknown API key: check the key, or create one with `busway keys create NAME`",
                reason="unknown API key",
            )
        access = self.current(key.id)
        if access is None:
            raise Unauthorized(
                "this API key was revoked or has expired: use another one",
                reason="revoked or expired API key",
            )
        return access

    def current(self, id_: int) -> Access | None:
        """Return the access of the key with this id, which uses it now. None: there is no valid one."""
        key = self._records.get(id_)
        if key is None or not self._is_valid(key):
            return None
        self._used.add(id_)
        return self._accesses[id_]

    def take_used(self) -> set[int]:
        """Return the ids of the keys of the store that were used since the last call."""
        used, self._used = self._used, set()
        return self.stored(used)

    def stored(self, ids: Iterable[int | None]) -> set[int]:
        """Return those ids that are of keys in the store."""
        return {id_ for id_ in ids if id_ in self._stored}

    def _replace(self, stored: dict[int, KeyRecord], declared: dict[int, KeyRecord]) -> bool:
        known = self._records
        self._stored, self._declared, self._records = stored, declared, {**declared, **stored}
        if self._records == known:
            return False
        self._accesses = {key.id: _access(key) for key in self._records.values()}
        return True

    def _is_valid(self, key: KeyRecord) -> bool:
        return key.revoked_at is None and (key.expires_at is None or key.expires_at > self._clock())


def _access(key: KeyRecord) -> Access:
    source: Literal["key", "file"] = "file" if key.source == "file" else "key"
    return Access(
        key.id, frozenset(key.scopes), tuple(key.types or ()), key.name, source, until=key.expires_at
    )
