"""Signatures after Standard Webhooks (https://www.standardwebhooks.com), and their secrets."""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Iterable

import msgspec

PREFIX = "whsec_"
BOTH_VALID = 24 * 3600 * 1_000_000  # microseconds for which the secret before is used, too
_BYTES = 32


class Secret(msgspec.Struct, frozen=True, array_like=True):
    """A secret that signs what is sent to a URL. Times are microseconds since 1970.

    `ends_at`: None, or when it signs no more, because a newer one took its place.
    """

    value: str
    created_at: int
    ends_at: int | None = None

    def __repr__(self) -> str:
        return f"Secret(created_at={self.created_at}, ends_at={self.ends_at})"  # without its value


def new_secret(now: int) -> Secret:
    """Return a new secret: `whsec_` and base64."""
    return Secret(PREFIX + base64.b64encode(secrets.token_bytes(_BYTES)).decode(), now)


def rotate(known: Iterable[Secret], now: int) -> tuple[Secret, ...]:
    """Return the secrets after a rotation, newest first: two at most."""
    last = [Secret(secret.value, secret.created_at, now + BOTH_VALID) for secret in [*known][:1]]
    return (new_secret(now), *last)


def in_force(known: Iterable[Secret], now: int) -> list[str]:
    """Return the values of the secrets that sign now."""
    return [secret.value for secret in known if secret.ends_at is None or secret.ends_at > now]


def sign(values: Iterable[str], id_: str, timestamp: int, body: bytes) -> str:
    """Return the value of `webhook-signature`: one signature for each secret.

    Args:
        values: the secrets.
        id_: of the message.
        timestamp: seconds since 1970.
        body: what is sent, any bytes.
    """
    head = f"{id_}.{timestamp}.".encode()
    return " ".join(f"v1,{_sign(value, head, body)}" for value in values)


def _sign(secret: str, head: bytes, body: bytes) -> str:
    made = hmac.new(base64.b64decode(secret.removeprefix(PREFIX)), head, hashlib.sha256)
    made.update(body)
    return base64.b64encode(made.digest()).decode()
