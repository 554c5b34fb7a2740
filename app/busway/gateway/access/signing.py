"""The keys with which issuers of tokens sign: from a file, or from a JSON Web Key Set (RFC 7517).

A key fits only the algorithms of its own kind. So no public key is ever taken as a shared secret, whatever
algorithm a token names.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from typing import Any, Protocol

import jwt
import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed448 import Ed448PublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey

from busway.domain.text import JSONError, decode_json

RSA = frozenset({"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"})
CURVES = {"secp256r1": "ES256", "secp384r1": "ES384", "secp521r1": "ES512"}
PUBLIC = RSA | frozenset(CURVES.values()) | {"EdDSA"}
SHARED = {"HS256": 32, "HS384": 48, "HS512": 64}
"""The algorithms with a shared secret, and the least bytes of it (RFC 7518, section 3.2)."""
RSA_BITS = 2048
MOST_KEYS = 100
_BLOCK = re.compile(rb"-----BEGIN ([A-Z0-9 ]+)-----.*?-----END \1-----", re.DOTALL)


class KeysError(ValueError):
    """The text has no keys that can be used. The message says why and has nothing secret."""


class SigningKey(msgspec.Struct, frozen=True):
    """A key that checks signatures.

    Attributes:
        kid: its id in the set of the issuer. None: tokens of any `kid` may be signed with it.
        algorithms: those that it fits.
        key: the public key or the shared secret.
        signer: identifies the key itself.
    """

    kid: str | None
    algorithms: frozenset[str]
    key: Any
    signer: str


class SigningKeys(Protocol):
    """The keys of an issuer."""

    def find(self, kid: str | None, algorithm: str) -> list[SigningKey]:
        """Return the keys with which a token of this `kid` and algorithm may be signed."""

    def missed(self) -> None:
        """Note that no key was found.

        Raises:
            Unavailable: there may be one later.
        """

    def signers(self) -> frozenset[str]:
        """Return what identifies the keys that are good now."""


def read_public(data: bytes) -> list[SigningKey]:
    """Return the keys of a PEM file: public keys, or certificates.

    Raises:
        KeysError: it has none, or something else.
    """
    blocks = [(match[1].decode(), match[0]) for match in _BLOCK.finditer(data)]
    if not blocks:
        raise KeysError("it is no PEM file: it must have `-----BEGIN PUBLIC KEY-----`")
    return [_signing_key(None, _public_key(kind, block)) for kind, block in blocks]


def read_secret(data: bytes) -> bytes:
    """Return the shared secret of a file, without white space at its end.

    Raises:
        KeysError: it is too short, or a key of another kind, which is no secret.
    """
    secret = data.rstrip()
    if _BLOCK.search(data) or secret.startswith((b"ssh-", b"ecdsa-", b"{")):
        raise KeysError("it has a key that is no shared secret: --jwt-key-file takes public keys in PEM")
    if len(secret) < min(SHARED.values()):
        raise KeysError(f"a shared secret needs at least {min(SHARED.values())} bytes")
    return secret


def shared_key(secret: bytes) -> SigningKey:
    """Return a shared secret as a key, for the algorithms for which it is long enough."""
    algorithms = frozenset(name for name, least in SHARED.items() if len(secret) >= least)
    # Tickets and sessions show it. Who has one had a token, whose signature says as much of the secret.
    signer = hmac.digest(secret, b"busway signer", "sha256").hex()[:16]
    return SigningKey(None, algorithms, secret, signer)


def read_jwks(data: bytes) -> list[SigningKey]:
    """Return the keys of a JSON Web Key Set that sign. Others in it are left out.

    Raises:
        KeysError: it is no such set, or has no key that can be used.
    """
    try:
        document = decode_json(data)
    except JSONError as problem:
        raise KeysError(f"it is not JSON: {problem}") from None
    found = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(found, list) or len(found) > MOST_KEYS:
        raise KeysError(f"it is no JSON Web Key Set with at most {MOST_KEYS} keys")
    keys = [key for each in found if isinstance(each, dict) and (key := _of_set(each)) is not None]
    if not keys:
        raise KeysError("it has no public key for signatures that can be used")
    return keys


def _of_set(fields: dict[str, Any]) -> SigningKey | None:
    """Return a key of a set, None if it is for something else, private, or cannot be read."""
    kid, algorithm = fields.get("kid"), fields.get("alg")
    operations = fields.get("key_ops", ["verify"])
    signs = fields.get("use", "sig") == "sig" and isinstance(operations, list) and "verify" in operations
    if not signs or fields.get("kty") not in ("RSA", "EC", "OKP") or "d" in fields:
        return None
    if not isinstance(kid, str | None) or not isinstance(algorithm, str | None):
        return None
    if algorithm is not None and algorithm not in PUBLIC:
        return None
    try:
        key = _signing_key(kid, jwt.PyJWK(fields, algorithm or _usual(fields)).key)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError):
        return None
    if algorithm is None:
        return key
    return msgspec.structs.replace(key, algorithms=key.algorithms & {algorithm})


def _usual(fields: dict[str, Any]) -> str:
    """Return an algorithm of a key that names none, so that it can be read."""
    curves = {"P-256": "ES256", "P-384": "ES384", "P-521": "ES512"}
    if fields["kty"] == "EC":
        return curves[fields["crv"]]
    return "RS256" if fields["kty"] == "RSA" else "EdDSA"


def _public_key(kind: str, block: bytes) -> Any:
    if "PRIVATE" in kind:
        raise KeysError("it has a private key: only the issuer may have it, give the public one")
    try:
        if kind == "CERTIFICATE":
            return x509.load_pem_x509_certificate(block).public_key()
        return serialization.load_pem_public_key(block)
    except Exception as problem:  # what cryptography raises depends on the key
        raise KeysError(f"its {kind.lower()} cannot be read: {type(problem).__name__}") from None


def _signing_key(kid: str | None, key: Any) -> SigningKey:
    """Return a public key with the algorithms that it fits.

    Raises:
        KeysError: it is of a kind that signs no tokens, or too short.
    """
    if isinstance(key, RSAPublicKey):
        if key.key_size < RSA_BITS:
            raise KeysError(f"it has an RSA key of {key.key_size} bits: at least {RSA_BITS} are needed")
        algorithms = RSA
    elif isinstance(key, EllipticCurvePublicKey) and key.curve.name in CURVES:
        algorithms = frozenset({CURVES[key.curve.name]})
    elif isinstance(key, Ed25519PublicKey | Ed448PublicKey):
        algorithms = frozenset({"EdDSA"})
    else:
        raise KeysError("it has a key that signs no tokens: RSA, P-256, P-384, P-521 and Ed25519 do")
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    der = key.public_bytes(serialization.Encoding.DER, form)
    return SigningKey(kid, algorithms, key, hashlib.sha256(der).hexdigest()[:32])
