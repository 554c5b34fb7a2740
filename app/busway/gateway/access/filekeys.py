"""The keys of an issuer in a file, which is read again when it has changed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path

from busway.gateway.access.signing import KeysError, SigningKey

log = logging.getLogger("busway.access")

EVERY = 2.0  # seconds between looks at the file
MOST_BYTES = 1_048_576

ReadKeys = Callable[[bytes], Sequence[SigningKey]]
"""Returns the keys that the content of a file has, or raises `KeysError`."""


class FileKeys:
    """The keys in a file. A file that cannot be used changes nothing: the keys before stay good.

    Args:
        path: of the file.
        parse: returns its keys.

    Attributes:
        source: the path, for people.
        error: why the file as it is now cannot be used, None if it can.

    Raises:
        KeysError: it cannot be read or used.
    """

    def __init__(self, path: Path, parse: ReadKeys) -> None:
        self.source, self._path, self._parse = str(path), path, parse
        self.error: str | None = None
        self._following: asyncio.Task[None] | None = None
        self._data = self._read()
        self._take(parse(self._data))

    def __len__(self) -> int:
        return len(self._keys)

    def start(self, changed: Callable[[], None]) -> None:
        """Read the file again when it has changed. `changed` is called when its keys have."""
        self._following = asyncio.create_task(self._follow(changed))

    def stop(self) -> None:
        """Read it no more."""
        if self._following is not None:
            self._following.cancel()

    def find(self, _kid: str | None, algorithm: str) -> list[SigningKey]:
        """Return the keys that fit the algorithm: those of a file have no id."""
        return [key for key in self._keys if algorithm in key.algorithms]

    def missed(self) -> None:
        """Do nothing: a changed file is read soon anyway."""

    def signers(self) -> frozenset[str]:
        """Return what identifies the keys."""
        return self._signers

    def _take(self, keys: Sequence[SigningKey]) -> None:
        self._keys, self._signers = [*keys], frozenset(key.signer for key in keys)

    def _read(self) -> bytes:
        try:
            with self._path.open("rb") as file:
                return file.read(MOST_BYTES)
        except OSError as problem:
            raise KeysError(f"it cannot be read: {problem.strerror}") from None

    async def _follow(self, changed: Callable[[], None]) -> None:
        while True:
            await asyncio.sleep(EVERY)
            try:
                data = await asyncio.to_thread(self._read)  # the file may be on a network
                if data == self._data and self.error is None:
                    continue
                keys = self._parse(data)
            except KeysError as problem:
                self._note(str(problem))
                continue
            except Exception:
                log.exception("cannot read the keys of the issuer of tokens again, retrying")
                continue
            self._data, self.error = data, None
            log.info("the keys of the issuer of tokens were read again from %s: %d", self.source, len(keys))
            before = self._signers
            self._take(keys)
            if self._signers != before:
                changed()

    def _note(self, error: str) -> None:
        """Log once why the file cannot be used."""
        if error != self.error:
            text = "the keys of the issuer of tokens in %s cannot be used, so those before stay valid: %s"
            log.error(text, self.source, error)
        self.error = error
