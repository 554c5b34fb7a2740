"""The issuer of tokens, as settings name it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from busway.domain.loopback import is_loopback
from busway.gateway.access.filekeys import FileKeys
from busway.gateway.access.jwks import KeySet
from busway.gateway.access.signers import IssuerKeys
from busway.gateway.access.signing import (
    PUBLIC,
    SHARED,
    KeysError,
    SigningKey,
    read_public,
    read_secret,
    shared_key,
)
from busway.gateway.access.tokens import TokenRules, Tokens

USUAL = ("RS256", "PS256", "ES256", "EdDSA")
"""The algorithms that are allowed unless others are named, for public keys."""


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
        jwks_url: the URL of the issuer's JSON Web Key Set. Empty: a file has the keys.
        file: the keys of the file.
    """

    rules: TokenRules
    jwks_url: str = ""
    file: FileKeys | None = None

    def tokens(self, clock: Callable[[], int]) -> tuple[Tokens, IssuerKeys]:
        """Return what identifies the bearers of its tokens, and the keys, which have to be started."""
        keys = self.file or KeySet(self.jwks_url)
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
    path, shared = key_file or secret_file or Path(), secret_file is not None
    try:
        return Issuer(rules, file=FileKeys(path, partial(_keys, rules, shared=shared)))
    except KeysError as problem:
        raise IssuerError(chosen[0], f"{str(path)!r} cannot be used: {problem}") from None


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


def _keys(rules: TokenRules, data: bytes, *, shared: bool) -> Sequence[SigningKey]:
    """Return the keys in the content of a file.

    Raises:
        KeysError: it has none that can be used.
    """
    keys = [shared_key(read_secret(data))] if shared else read_public(data)
    if not any(rules.algorithms & key.algorithms for key in keys):
        names = ", ".join(sorted(frozenset[str]().union(*(key.algorithms for key in keys))))
        raise KeysError(f"it has keys for {names} only: allow one by --jwt-algorithm")
    return keys
