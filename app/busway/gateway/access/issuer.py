"""The issuer of tokens, as settings name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from busway.domain.loopback import is_loopback
from busway.gateway.access.jwks import KeySet
from busway.gateway.access.signers import IssuerKeys
from busway.gateway.access.signing import (
    PUBLIC,
    SHARED,
    FixedKeys,
    KeysError,
    SigningKey,
    read_public,
    read_secret,
    shared_key,
)
from busway.gateway.access.tokens import TokenRules, Tokens

USUAL = ("RS256", "PS256", "ES256", "EdDSA")
"""The algorithms that are allowed unless others are named, for public keys."""
_MOST_BYTES = 1_048_576


class IssuerError(ValueError):
    """The settings do not fit each other, or a file cannot be used.

    Args:
        setting: the name of the setting that is wrong.
        text: what is wrong with it, and what to do.
    """

    def __init__(self, setting: str, text: str) -> None:
        super().__init__(text)
        self.setting = setting


class Issuer(msgspec.Struct, frozen=True):
    """Who signs tokens, and what they must be like.

    Attributes:
        rules: for tokens.
        source: the file of the keys, or the URL of the issuer's JSON Web Key Set.
        keys: from the file. Empty: the set has them.
    """

    rules: TokenRules
    source: str
    keys: tuple[SigningKey, ...] = ()

    def tokens(self, clock: Callable[[], int]) -> tuple[Tokens, IssuerKeys]:
        """Return what identifies the bearers of its tokens, and the keys, which have to be started."""
        keys = FixedKeys(self.keys, self.source) if self.keys else KeySet(self.source)
        return Tokens(self.rules, keys, clock), keys


def read_issuer(
    rules: TokenRules, *, jwks_url: str = "", key_file: Path | None = None, secret_file: Path | None = None
) -> Issuer:
    """Return the issuer that the settings name. Files are read now. `rules` may be without algorithms.

    Raises:
        IssuerError: a setting is missing or wrong.
    """
    if not rules.audience:
        raise IssuerError("jwt_audience", "name the audience of tokens for this gateway, such as busway")
    ways = [("jwt_jwks_url", jwks_url), ("jwt_key_file", key_file), ("jwt_secret_file", secret_file)]
    chosen = [name for name, value in ways if value]
    if len(chosen) != 1:
        raise IssuerError(
            chosen[1] if chosen else "jwt_issuer",
            "give one of --jwt-jwks-url, --jwt-key-file and --jwt-secret-file, with the keys of the issuer",
        )
    rules = msgspec.structs.replace(rules, algorithms=_algorithms(rules.algorithms, secret_file is not None))
    if jwks_url:
        return Issuer(rules, _url(jwks_url))
    keys = _keys(rules, chosen[0], key_file, secret_file)
    return Issuer(rules, str(key_file or secret_file), tuple(keys))


def _algorithms(chosen: frozenset[str], shared: bool) -> frozenset[str]:
    """Return the allowed algorithms: those of shared secrets, or those of public keys, never both."""
    possible: frozenset[str] = frozenset(SHARED) if shared else PUBLIC
    wrong = sorted(chosen - possible)
    if not wrong:
        return chosen or frozenset(("HS256",) if shared else USUAL)
    kind = "a shared secret" if shared else "public keys"
    names = ", ".join(sorted(possible))
    raise IssuerError("jwt_algorithm", f"{wrong[0]!r} is not one for {kind}: use {names}")


def _url(url: str) -> str:
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        host = None
    if not host or parts.scheme not in {"https", "http"} or not url.isascii() or not url.isprintable():
        raise IssuerError("jwt_jwks_url", "it must be like https://issuer.example/.well-known/jwks.json")
    if parts.scheme == "http" and not is_loopback(host):
        raise IssuerError(
            "jwt_jwks_url", "who changes an answer over http:// can sign tokens: use https:// (or loopback)"
        )
    return url


def _keys(
    rules: TokenRules, setting: str, key_file: Path | None, secret_file: Path | None
) -> Sequence[SigningKey]:
    path = key_file or secret_file or Path()
    try:
        with path.open("rb") as file:
            data = file.read(_MOST_BYTES)
        keys = read_public(data) if key_file else [shared_key(read_secret(data))]
    except OSError as problem:
        raise IssuerError(setting, f"{str(path)!r} cannot be read: {problem.strerror}") from None
    except KeysError as problem:
        raise IssuerError(setting, f"{str(path)!r} cannot be used: {problem}") from None
    if not any(rules.algorithms & key.algorithms for key in keys):
        names = ", ".join(sorted(frozenset[str]().union(*(key.algorithms for key in keys))))
        raise IssuerError(setting, f"{str(path)!r} has keys for {names} only: allow one by --jwt-algorithm")
    return keys
