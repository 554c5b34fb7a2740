"""The keys of an issuer that publishes them as a JSON Web Key Set: read again and again, in a thread.

A set that cannot be read changes nothing: the keys that are known stay good while the issuer is away. A token
with an unknown `kid` makes the gateway read the set again, but not more often than every few seconds, however
many such tokens arrive.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import NoReturn
from urllib.parse import urlsplit

import httpx

from busway.domain.loopback import is_loopback
from busway.gateway.access.pending import KeysPending
from busway.gateway.access.signing import KeysError, SigningKey, read_jwks
from busway.gateway.errors import Unavailable

log = logging.getLogger("busway.access")

REFRESH_EVERY = 300.0  # seconds
RETRY_EVERY = 10.0  # seconds after a failure
UNKNOWN_EVERY = 10.0  # seconds between reads because of an unknown `kid`
TIMEOUT = 5.0  # seconds for each step of a read
WHOLE = 15.0  # seconds for all of it
MOST_BYTES = 1_048_576


class FetchError(Exception):
    """The set could not be read. The message says why."""


def fetch(url: str) -> bytes:
    """Return the body of a set. Redirects are not followed.

    Raises:
        FetchError: there is no answer in time, it is not 200, or too large.
    """
    end = time.monotonic() + WHOLE
    headers = {"Accept": "application/jwk-set+json, application/json", "Accept-Encoding": "identity"}
    direct = is_loopback(urlsplit(url).hostname or "")
    try:
        with (
            httpx.Client(timeout=TIMEOUT, headers=headers, trust_env=not direct) as client,
            client.stream("GET", url) as answer,
        ):
            if answer.status_code != 200:
                raise FetchError(f"it answers {answer.status_code} instead of 200")
            body = bytearray()
            for part in answer.iter_raw():
                body += part
                if len(body) > MOST_BYTES:
                    raise FetchError(f"it has more than {MOST_BYTES} bytes")
                if time.monotonic() > end:
                    raise FetchError(f"it takes longer than {WHOLE:.0f} s")
            return bytes(body)
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as problem:
        raise FetchError(f"{type(problem).__name__}: {problem}") from None


class KeySet:
    """The keys of a JSON Web Key Set.

    Args:
        url: where it is.
        fetch: reads it, in a thread.
        monotonic: seconds.

    Attributes:
        source: its URL.
        error: why the last read failed, None if it did not.
    """

    def __init__(
        self,
        url: str,
        fetch: Callable[[str], bytes] = fetch,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self.source = url
        self._changed: Callable[[], None] = lambda: None
        self._fetch, self._monotonic = fetch, monotonic
        self._keys: list[SigningKey] = []
        self._signers: frozenset[str] = frozenset()
        self.error: str | None = None
        self._reading: asyncio.Future[None] | None = None
        self._next: asyncio.TimerHandle | None = None
        self._unknown_from = float("-inf")
        self._stopped = False

    def __len__(self) -> int:
        return len(self._keys)

    def start(self, changed: Callable[[], None]) -> None:
        """Read the set now, and again every few minutes. `changed` is called when the keys have changed."""
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._begin()

    def stop(self) -> None:
        """Read no more."""
        self._stopped = True
        if self._next is not None:
            self._next.cancel()
        if self._reading is not None and not self._reading.done():
            self._reading.set_result(None)

    def find(self, kid: str | None, algorithm: str) -> list[SigningKey]:
        """Return the keys with this id that fit. A token without `kid` needs a set with only one."""
        fitting = [key for key in self._keys if algorithm in key.algorithms]
        if kid is None:
            return fitting if len(fitting) == 1 else []
        return [key for key in fitting if key.kid == kid]

    def signers(self) -> frozenset[str]:
        """Return what identifies the keys."""
        return self._signers

    def missed(self) -> None:
        """Read the set again if that was not done just before.

        Raises:
            KeysPending: it is being read.
            Unavailable: it could not be read yet.
        """
        now = self._monotonic()
        if self._reading is None and now >= self._unknown_from:
            self._unknown_from = now + UNKNOWN_EVERY
            self._begin()
        if self._reading is not None:
            raise KeysPending(self._reading)
        if not self._keys:
            self._refuse()

    def _refuse(self) -> NoReturn:
        raise Unavailable(
            "the keys of the issuer of tokens could not be read yet: try again, or use an API key",
            retry_after=5,
        )

    def _begin(self) -> None:
        if self._stopped:
            return
        if self._next is not None:
            self._next.cancel()
        self._reading = self._loop.create_future()
        threading.Thread(target=self._read, name="busway-jwks", daemon=True).start()

    def _read(self) -> None:
        """Read the set. Runs in a thread: an issuer that does not answer must not hold the loop."""
        keys: list[SigningKey] = []
        error: str | None = None
        try:
            keys = read_jwks(self._fetch(self.source))
        except (FetchError, KeysError) as problem:
            error = str(problem)
        except Exception as problem:
            log.exception("cannot read the keys of the issuer of tokens")
            error = type(problem).__name__
        with contextlib.suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._took, keys, error)

    def _took(self, keys: list[SigningKey], error: str | None) -> None:
        if self._stopped:
            return
        self._log(error)
        self.error = error
        self._next = self._loop.call_later(REFRESH_EVERY if error is None else RETRY_EVERY, self._begin)
        reading, self._reading = self._reading, None
        if error is None and keys != self._keys:
            self._keys, self._signers = keys, frozenset(key.signer for key in keys)
            self._changed()
        if reading is not None and not reading.done():
            reading.set_result(None)

    def _log(self, error: str | None) -> None:
        """Log a failure once, and its end."""
        if error is None and self.error is not None:
            log.info("the keys of the issuer of tokens can be read again")
        elif error is not None and error != self.error:
            known = "those that are known stay good" if self._keys else "so no token is accepted yet"
            log.warning(
                "cannot read the keys of the issuer of tokens at %s: %s; %s", self.source, error, known
            )
