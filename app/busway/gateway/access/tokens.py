"""Identification by JSON Web Tokens (RFC 7519) of one issuer.

PyJWT checks the signature, the issuer and the audience. Times are checked here, against the clock of the
gateway. What a token says is used only after its signature was checked, and no message repeats it.
"""

from __future__ import annotations

import hashlib
import math
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import jwt
import msgspec

from busway.contract.keys import LIMITED_SCOPES, MOST_TYPES, SCOPES
from busway.domain.pattern import PatternError, check_pattern
from busway.domain.times import SECOND
from busway.gateway.access.scopes import Access
from busway.gateway.access.signing import SigningKeys
from busway.gateway.errors import Unauthorized

LONGEST = 16_384  # characters of a token
LONGEST_TYPES = 8_192  # characters of all its type patterns
LONGEST_SUBJECT = 255
REMEMBERED_BYTES = 16_777_216  # of tokens that were checked before
_OVERHEAD = 600  # bytes that a remembered token takes besides its subject and patterns
_LAST = 253_402_300_799  # the end of the year 9999, in seconds since 1970
_REQUIRED = ("iss", "aud", "sub", "exp")
_OPTIONS: Any = {
    "require": [*_REQUIRED],
    "verify_exp": False,
    "verify_nbf": False,
    "verify_iat": False,
    "verify_jti": False,
    "verify_sub": False,
}


class TokenRules(msgspec.Struct, frozen=True, kw_only=True):
    """What a token must be like.

    Attributes:
        issuer: its `iss`.
        audience: one of these must be in its `aud`.
        algorithms: with which it may be signed.
        scope_claims: the first one of these claims that it has says its scopes.
        types_claim: the claim with its type patterns.
        leeway: seconds by which the clocks of issuer and gateway may differ.
    """

    issuer: str
    audience: tuple[str, ...]
    algorithms: frozenset[str]
    scope_claims: tuple[str, ...] = ("scope", "scp")
    types_claim: str = "busway_types"
    leeway: int = 10


class Tokens:
    """Identifies the bearers of tokens. Remembers tokens, because to check a signature takes long.

    Args:
        rules: what a token must be like.
        keys: with which it may be signed.
        clock: microseconds since 1970.
        most_bytes: memory for remembered tokens, about.
    """

    def __init__(
        self,
        rules: TokenRules,
        keys: SigningKeys,
        clock: Callable[[], int],
        most_bytes: int = REMEMBERED_BYTES,
    ) -> None:
        self.rules, self._keys, self._clock, self._most_bytes = rules, keys, clock, most_bytes
        self._known: OrderedDict[bytes, Access] = OrderedDict()
        self._bytes = 0

    def identify(self, text: str) -> Access:
        """Return the access that a token gives.

        Raises:
            Unauthorized: it is malformed, expired, or not meant for this gateway.
            KeysPending: the keys of its issuer are being read.
            Unavailable: they could not be read yet.
        """
        digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()
        access = self._known.get(digest)
        if access is None:
            access = self._check(text)
            self._remember(digest, access)
        elif not self.still_valid(access):
            self._forget(digest)
            return self.identify(text)
        return access

    def still_valid(self, access: Access) -> bool:
        """Return whether a token that was valid has not expired, and its signing key is still one."""
        return (access.until or 0) > self._clock() and access.signer in self._keys.signers()

    def check(self, access: Access) -> None:
        """Check a token that was valid, here or on another node, by the access that it gave.

        Raises:
            Unauthorized: it has expired, or its signing key is no longer one.
            KeysPending: the keys of its issuer are being read.
            Unavailable: they could not be read yet.
        """
        if (access.until or 0) <= self._clock():
            raise _refused("it has expired", "get a fresh one from its issuer")
        if access.signer not in self._keys.signers():
            self._keys.missed()
            raise _refused("its signing key is no longer one of its issuer", "get a fresh one")

    def _remember(self, digest: bytes, access: Access) -> None:
        self._known[digest] = access
        self._bytes += _size(access)
        while self._bytes > self._most_bytes:
            self._forget(next(iter(self._known)))

    def _forget(self, digest: bytes) -> None:
        self._bytes -= _size(self._known.pop(digest))

    def _check(self, text: str) -> Access:
        header = _read_header(text)
        algorithm, kid = header.get("alg"), header.get("kid")
        if not isinstance(algorithm, str) or algorithm not in self.rules.algorithms:
            raise _refused("its algorithm is not allowed")
        if "crit" in header:
            raise _refused("its header has critical parameters that are not supported")
        if not isinstance(kid, str | None):
            raise _refused("it is malformed")
        keys = self._keys.find(kid, algorithm)
        if not keys:
            self._keys.missed()
            raise _refused("its signing key is unknown")
        for key in keys[:-1]:
            try:
                return self._access(self._claims(text, key.key, algorithm), key.signer)
            except _WrongKey:
                continue
        return self._access(self._claims(text, keys[-1].key, algorithm), keys[-1].signer)

    def _claims(self, text: str, key: Any, algorithm: str) -> dict[str, Any]:
        rules = self.rules
        try:
            claims: dict[str, Any] = jwt.decode(
                text,
                key,
                algorithms=[algorithm],
                audience=rules.audience,
                issuer=rules.issuer,
                options=_OPTIONS,
            )
        except jwt.InvalidSignatureError:
            raise _WrongKey from None
        except jwt.MissingRequiredClaimError as problem:
            raise _refused(f"it has no claim {problem.claim}") from None
        except jwt.InvalidIssuerError:
            raise _refused("it is from another issuer") from None
        except jwt.InvalidAudienceError:
            raise _refused("it is for another audience") from None
        except Exception:
            raise _refused("it is malformed") from None
        return claims

    def _access(self, claims: Mapping[str, Any], signer: str) -> Access:
        """Return what the claims of a token with a valid signature grant.

        Raises:
            Unauthorized: it has expired, is not valid yet, or a claim is malformed.
        """
        rules, now = self.rules, self._clock()
        until = min(_time(claims, "exp") + rules.leeway, _LAST) * SECOND
        if until <= now:
            raise _refused("it has expired", "get a fresh one from its issuer")
        if "nbf" in claims and (_time(claims, "nbf") - rules.leeway) * SECOND > now:
            raise _refused("it is not valid yet")
        subject = claims["sub"]
        if not isinstance(subject, str) or not 1 <= len(subject) <= LONGEST_SUBJECT:
            raise _refused(f"its claim sub must be a string of 1 to {LONGEST_SUBJECT} characters")
        if not subject.isprintable():
            raise _refused("its claim sub must be printable")
        scopes, types = self._scopes(claims), self._types(claims)
        if types and not scopes <= LIMITED_SCOPES:
            raise _refused("it has type patterns, so it may have the scopes publish and subscribe only")
        number = _number(rules.issuer, subject)
        return Access(number, scopes, types, subject, "token", math.floor(until), signer)

    def _scopes(self, claims: Mapping[str, Any]) -> frozenset[str]:
        """Return the scopes of a token that mean something here. Others are for other services."""
        for name in self.rules.scope_claims:
            value = _claim(claims, name)
            if value is _MISSING:
                continue
            texts = value.split() if isinstance(value, str) else value
            if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
                raise _refused("its claim with the scopes must be a string or a list of strings")
            return frozenset(SCOPES).intersection(texts)
        return frozenset()

    def _types(self, claims: Mapping[str, Any]) -> tuple[str, ...]:
        """Return the type patterns of a token. Empty: it has no such claim. An empty claim is refused."""
        value = _claim(claims, self.rules.types_claim)
        if value is _MISSING:
            return ()
        texts = value.split() if isinstance(value, str) else value
        if not isinstance(texts, list) or not all(isinstance(each, str) for each in texts):
            raise _refused("its claim with the type patterns must be a string or a list of strings")
        if not 1 <= len(texts) <= MOST_TYPES or sum(map(len, texts)) > LONGEST_TYPES:
            raise _refused(f"its claim with the type patterns must have 1 to {MOST_TYPES} patterns")
        try:
            for pattern in texts:
                check_pattern(pattern)
        except PatternError:
            raise _refused("its claim with the type patterns has one that is not valid") from None
        return tuple(dict.fromkeys(texts))


class _WrongKey(Unauthorized):
    """The token was not signed with this key."""

    def __init__(self) -> None:
        why = "its signature is not valid"
        super().__init__(_detail(why, ""), reason=_reason(why))


_MISSING = object()


def _refused(why: str, advice: str = "") -> Unauthorized:
    return Unauthorized(_detail(why, advice), reason=_reason(why))


def _detail(why: str, advice: str) -> str:
    return f"this token is refused, because {why}" + (f": {advice}" if advice else "")


def _reason(why: str) -> str:
    return f"the token is refused: {why}"


def _size(access: Access) -> int:
    return _OVERHEAD + sum(map(len, (access.name, *access.types)))


def _read_header(text: str) -> dict[str, Any]:
    if len(text) > LONGEST or text.count(".") != 2 or not text.isascii():
        raise _refused("it is malformed", "expected an API key `bw_…` or a JSON Web Token")
    try:
        return jwt.get_unverified_header(text)
    except Exception:
        raise _refused("it is malformed", "expected an API key `bw_…` or a JSON Web Token") from None


def _time(claims: Mapping[str, Any], name: str) -> float:
    """Return a time in seconds since 1970."""
    value = claims[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or _is_nan(value):
        raise _refused(f"its claim {name} is no time")
    return max(0, min(value, _LAST))


def _is_nan(value: float) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _claim(claims: Mapping[str, Any], name: str) -> Any:
    """Return a claim by its name, or by the names of the objects around it, with dots between them."""
    if name in claims:
        return claims[name]
    value: Any = claims
    for part in name.split("."):
        if not isinstance(value, dict) or part not in value:
            return _MISSING
        value = value[part]
    return value


def _number(issuer: str, subject: str) -> int:
    """Return a negative number for a subject: ids of keys are positive."""
    digest = hashlib.sha256(f"{issuer}\0{subject}".encode()).digest()
    return -1 - (int.from_bytes(digest[:8]) >> 1)
