"""An issuer of tokens: a real one, whose set of keys is served over HTTP on loopback."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self

import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

AUDIENCE = "busway"


def encoded(value: Any) -> str:
    """A part of a token."""
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


class TokenIssuer:
    """Signs tokens with ES256. `asked`: how often its set of keys was read. `down`: it answers 503."""

    def __init__(self) -> None:
        self.asked, self.down, self.body, self.status = 0, False, b"", 200
        self._keys: dict[str, ec.EllipticCurvePrivateKey] = {}
        self.add("1")

        class Answer(BaseHTTPRequestHandler):
            issuer = self

            def do_GET(self) -> None:
                self.issuer.asked += 1
                self.send_response(503 if self.issuer.down else self.issuer.status)
                self.send_header("Location", "http://127.0.0.1:9/")
                self.end_headers()
                with contextlib.suppress(OSError):  # who reads no more of it
                    self.wfile.write(self.issuer.body)

            def log_message(self, *_: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answer)
        self.name = f"http://127.0.0.1:{self._server.server_address[1]}"
        self.url = f"{self.name}/jwks.json"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def options(self) -> dict[str, Any]:
        """The settings of a gateway that accepts its tokens."""
        return {"jwt_issuer": self.name, "jwt_audience": AUDIENCE, "jwt_jwks_url": self.url, "jwt_leeway": 0}

    @property
    def pem(self) -> bytes:
        """Its newest public key."""
        spki = serialization.PublicFormat.SubjectPublicKeyInfo
        key = next(reversed(self._keys.values())).public_key()
        return key.public_bytes(serialization.Encoding.PEM, spki)

    def add(self, kid: str) -> None:
        """Sign with another key from now on."""
        self._keys[kid] = ec.generate_private_key(ec.SECP256R1())
        self._publish()

    def remove(self, kid: str) -> None:
        """Take a key out of the set."""
        del self._keys[kid]
        self._publish()

    def claims(self, scope: str = "", **more: Any) -> dict[str, Any]:
        """The claims of a good token of 10 minutes. None leaves one out."""
        usual = {"iss": self.name, "aud": AUDIENCE, "sub": "shop", "exp": int(time.time()) + 600}
        found = {**usual, "scope": scope, **more}
        return {name: value for name, value in found.items() if value is not None}

    def token(self, scope: str = "", *, headers: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """A token that is signed with the newest key."""
        kid, key = next(reversed(self._keys.items()))
        return jwt.encode(
            self.claims(scope, **claims), key, algorithm="ES256", headers={"kid": kid, **(headers or {})}
        )

    def signed(self, payload: bytes) -> str:
        """A token with any payload, and a good signature."""
        kid, key = next(reversed(self._keys.items()))
        return jwt.api_jws.encode(payload, key, "ES256", {"kid": kid})

    def forged(self, header: Mapping[str, Any], secret: bytes = b"", **claims: Any) -> str:
        """A token whose signature is an HMAC with this secret, whatever its header says."""
        text = f"{encoded(dict(header))}.{encoded(self.claims('admin', **claims))}"
        return f"{text}.{encoded(hmac.digest(secret, text.encode(), hashlib.sha256) if secret else b'')}"

    def bad_tokens(self, folder: Path) -> dict[str, str]:
        """Tokens that nobody may accept, by what is wrong with them. They say that they are `admin`."""
        good = self.token("admin")
        head, body, signature = good.split(".")
        secret = folder / "path"
        secret.write_bytes(b"x")
        foreign = ec.generate_private_key(ec.SECP256R1())
        own = jwt.algorithms.ECAlgorithm.to_jwk(foreign.public_key(), as_dict=True)
        path = "../" * 20 + str(secret).lstrip("/")
        return {
            "expired": self.token("admin", exp=int(time.time()) - 60),
            "not yet": self.token("admin", nbf=int(time.time()) + 600),
            "without an end": self.token("admin", exp=None),
            "without a subject": self.token("admin", sub=None),
            "of another audience": self.token("admin", aud="shop"),
            "of another issuer": self.token("admin", iss="https://issuer.example"),
            "without a signature": f"{head}.{body}.",
            "alg none": self.forged({"alg": "none", "typ": "JWT"}),
            "alg None": self.forged({"alg": "nOnE", "kid": "1"}),
            "alg HS256, signed with the public key": self.forged({"alg": "HS256", "kid": "1"}, self.pem),
            "alg ES256, signed with the public key": self.forged({"alg": "ES256", "kid": "1"}, self.pem),
            "kid with a path": self.forged({"alg": "HS256", "kid": path}, b"x"),
            "kid with SQL": self.forged({"alg": "ES256", "kid": "' OR 1=1 --"}, b"x"),
            "kid no string": self.forged({"alg": "ES256", "kid": {"a": 1}}, b"x"),
            "own key in the header": jwt.encode(
                self.claims("admin"), foreign, algorithm="ES256",
                headers={"kid": "1", "jwk": own},
            ),
            "url of a key in the header": jwt.encode(
                self.claims("admin"), foreign, algorithm="ES256", headers={"kid": "1", "jku": "https://e.example/"}
            ),
            "critical header": self.token("admin", headers={"crit": ["exp"], "exp": 1}),
            "truncated": good[:-9],
            "truncated body": f"{head}.{body[:-8]}.{signature}",
            "changed body": f"{head}.{encoded(self.claims('admin', sub='root'))}.{signature}",
            "deep": self.forged({"alg": "ES256", "kid": "1", "a": _deep(900)}, b"x"),
            "long": f"{head}.{'A' * 40_000}.{signature}",
            "limited, but admin": self.token("admin", busway_types=["order.**"]),
            "limited to nothing": self.token("publish", busway_types=[]),
            "limited to null": self.null_types(),
        }  # fmt: skip

    def null_types(self) -> str:
        """A token whose type patterns are null."""
        kid, key = next(reversed(self._keys.items()))
        claims = {**self.claims("publish"), "busway_types": None}
        return jwt.encode(claims, key, algorithm="ES256", headers={"kid": kid})

    def _publish(self) -> None:
        form = jwt.algorithms.ECAlgorithm.to_jwk
        keys = [
            {**form(key.public_key(), as_dict=True), "kid": kid, "use": "sig"}
            for kid, key in self._keys.items()
        ]
        self.body = json.dumps({"keys": [*keys, {"kty": "oct", "k": "eHg", "kid": "s"}]}).encode()


def _deep(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value
