"""Checks the signatures of webhooks. They are HMAC-SHA256 over the raw body, with each kind's own headers.

Each check does the same work, whatever is wrong: two keys are tried with the whole body. So the time of an
answer does not tell whether a source exists, or has two secrets.

References:
    github: https://docs.github.com/en/webhooks/using-webhooks/validating-webhook-deliveries
    stripe: https://docs.stripe.com/webhooks/signature
    slack: https://docs.slack.dev/authentication/verifying-requests-from-slack
    standard: https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
from collections.abc import Callable, Mapping

import msgspec

TOLERANCE = 300  # seconds that the time of a request may differ from that of the gateway
MOST = 16  # signatures in one request
Headers = Mapping[str, list[str]]
"""The headers of a request: names in lower case, each with its values."""

_HEX = re.compile(r"[0-9a-f]{64}", re.ASCII)
_SECONDS = re.compile(r"[0-9]{1,12}", re.ASCII)


class Claim(msgspec.Struct):
    """What a request says of its signature.

    `prefix`: is signed in front of the body. `digests`: one of them must be right. `sent_at`: seconds since
    1970, None if it is not signed. `trouble`: why no signature can be right, None if one can.
    """

    prefix: bytes = b""
    digests: list[bytes] = []
    sent_at: int | None = None
    trouble: str | None = None


class _Unreadable(ValueError):
    """A header is missing, there twice, or malformed."""


def check(claim: Claim, keys: tuple[bytes, bytes], body: bytes, now: float) -> str | None:
    """Return why a request is not signed with one of the keys, None if it is.

    Args:
        claim: what the request says.
        keys: both are tried.
        body: as received.
        now: seconds since 1970.
    """
    right = False
    for key in keys:
        mac = hmac.new(key, claim.prefix, "sha256")
        mac.update(body)
        digest = mac.digest()
        for given in claim.digests:
            right |= hmac.compare_digest(digest, given)
    if claim.trouble is not None:
        return claim.trouble
    if claim.sent_at is not None and abs(now - claim.sent_at) > TOLERANCE:
        return f"it was signed more than {TOLERANCE} s before or after this gateway's time"
    return None if right else "its signature is not of this secret and this body"


def read(kind: str, headers: Headers, signature_header: str) -> Claim:
    """Return what a request says of its signature, by the rules of a kind of source."""
    try:
        return _READERS[kind](headers, signature_header)
    except _Unreadable as problem:
        return Claim(trouble=str(problem))


def _github(headers: Headers, _: str) -> Claim:
    return Claim(digests=[_hex("x-hub-signature-256", _one(headers, "x-hub-signature-256"), "sha256=")])


def _hmac(headers: Headers, name: str) -> Claim:
    value = _one(headers, name)
    value = value.removeprefix("sha256=")
    if _HEX.fullmatch(value.lower()):
        return Claim(digests=[bytes.fromhex(value)])
    return Claim(digests=[_base64(name, value)])


def _stripe(headers: Headers, _: str) -> Claim:
    pairs = [part.strip().partition("=") for part in _one(headers, "stripe-signature").split(",")]
    times = [value for name, _, value in pairs if name == "t"]
    digests = [_hex("stripe-signature", value) for name, _, value in pairs if name == "v1"]
    if len(times) != 1 or not 1 <= len(digests) <= MOST:
        raise _Unreadable("the header stripe-signature must have one t and a v1")
    return _timed("stripe-signature", times[0], f"{times[0]}.", digests)


def _slack(headers: Headers, _: str) -> Claim:
    at = _one(headers, "x-slack-request-timestamp")
    digest = _hex("x-slack-signature", _one(headers, "x-slack-signature"), "v0=")
    return _timed("x-slack-request-timestamp", at, f"v0:{at}:", [digest])


def _standard(headers: Headers, _: str) -> Claim:
    id_, at = _one(headers, "webhook-id"), _one(headers, "webhook-timestamp")
    parts = _one(headers, "webhook-signature").split()
    digests = [
        _base64("webhook-signature", part.removeprefix("v1,")) for part in parts if part.startswith("v1,")
    ]
    if not 1 <= len(digests) <= MOST:
        raise _Unreadable("the header webhook-signature must have a signature that begins with v1,")
    return _timed("webhook-timestamp", at, f"{id_}.{at}.", digests)


_READERS: dict[str, Callable[[Headers, str], Claim]] = {
    "github": _github, "stripe": _stripe, "slack": _slack, "standard": _standard, "hmac": _hmac,
}  # fmt: skip


def _one(headers: Headers, name: str) -> str:
    values = headers.get(name, ())
    if len(values) != 1:
        raise _Unreadable(f"it must have the header {name} once, not {len(values)} times")
    return values[0]


def _timed(name: str, at: str, prefix: str, digests: list[bytes]) -> Claim:
    if not _SECONDS.fullmatch(at):
        raise _Unreadable(f"the time in the header {name} must be seconds since 1970")
    return Claim(prefix=prefix.encode("latin-1"), digests=digests, sent_at=int(at))


def _hex(name: str, value: str, prefix: str = "") -> bytes:
    digits = value.removeprefix(prefix)
    if not value.startswith(prefix) or not _HEX.fullmatch(digits):
        raise _Unreadable(f"the header {name} must have a signature {prefix}… of 64 hexadecimal digits")
    return bytes.fromhex(digits)


def _base64(name: str, value: str) -> bytes:
    try:
        digest = base64.b64decode(value, validate=True)
    except (binascii.Error, ValueError):
        digest = b""
    if len(digest) != 32:
        raise _Unreadable(f"the header {name} must have a signature of 32 bytes")
    return digest
