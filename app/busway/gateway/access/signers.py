"""The port for the keys of an issuer of tokens, as the composition and the status see them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol


class IssuerKeys(Protocol):
    """The keys with which an issuer signs.

    Attributes:
        source: the file or the URL that they come from. Empty: there is no issuer.
        error: why they could not be read when that was tried last, None if they could.
    """

    source: str
    error: str | None

    def __len__(self) -> int:
        """Return how many keys are known."""

    def start(self, changed: Callable[[], None]) -> None:
        """Read them again from time to time. `changed` is called when they have changed."""

    def stop(self) -> None:
        """Read them no more."""


class _NoKeys:
    source = ""
    error: str | None = None

    def __len__(self) -> int:
        return 0

    def start(self, changed: Callable[[], None]) -> None:
        pass

    def stop(self) -> None:
        pass


NO_KEYS: IssuerKeys = _NoKeys()
