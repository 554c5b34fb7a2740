"""Nkeys, with which clients of NATS prove who they are: Ed25519 keys in a text form of their own."""

from __future__ import annotations

import base64
import binascii
import re
from pathlib import Path

_SEED, _USER = 18 << 3, 20 << 3  # first bytes: they make the text begin with S and U
_BLOCK = r"-----BEGIN {}-----\s+(\S+)\s+-+END"


class Identity:
    """A user of NATS.

    Args:
        seed: the text of its secret key.
        jwt: what an operator has signed for it, None if the server knows its public key.

    Raises:
        ValueError: the seed is not the nkey of a user. The text says so.
    """

    def __init__(self, seed: str, jwt: str | None = None) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415 - loaded if used

        self._private = Ed25519PrivateKey.from_private_bytes(_raw(seed))
        public = bytes([_USER]) + self._private.public_key().public_bytes_raw()
        self.public = base64.b32encode(public + _check(public)).decode()
        self.jwt = jwt

    def credentials(self) -> bytearray:
        """Return the JWT."""
        return bytearray((self.jwt or "").encode())

    def sign(self, nonce: str) -> bytes:
        """Return the signature of what the server asks to be signed, in Base64."""
        return base64.b64encode(self._private.sign(nonce.encode()))


def read_nkey(path: Path) -> Identity:
    """Return the identity in a file that has a seed: `SUA…`.

    Raises:
        ValueError: it has none.
        OSError: it cannot be read.
    """
    return Identity(path.read_text(encoding="ascii", errors="replace").strip())


def read_creds(path: Path) -> Identity:
    """Return the identity in a file of credentials, as `nsc` writes it: a JWT and a seed.

    Raises:
        ValueError: it has none.
        OSError: it cannot be read.
    """
    text = path.read_text(encoding="ascii", errors="replace")
    jwt = re.search(_BLOCK.format("NATS USER JWT"), text)
    seed = re.search(_BLOCK.format("USER NKEY SEED"), text)
    if jwt is None or seed is None:
        raise ValueError("has no credentials of NATS: a user JWT and an nkey seed")
    return Identity(seed[1], jwt[1])


def _raw(seed: str) -> bytes:
    try:
        raw = base64.b32decode(seed + "=" * (-len(seed) % 8))
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 36 or _check(raw[:-2]) != raw[-2:]:
        raise ValueError("has no nkey: a seed such as SUA…")
    if raw[0] & 0xF8 != _SEED or ((raw[0] & 7) << 5 | raw[1] >> 3) != _USER:
        raise ValueError("has an nkey that is not the seed of a user")
    return raw[2:-2]


def _check(data: bytes) -> bytes:
    return binascii.crc_hqx(data, 0).to_bytes(2, "little")
