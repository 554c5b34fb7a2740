"""Admission of webhooks: by the signature of a source."""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections import Counter
from collections.abc import Callable

from busway.domain.source import SIGNATURE_HEADER, Source, signing_key
from busway.gateway.access import signatures
from busway.gateway.errors import BadSignature

log = logging.getLogger("busway.access")

LOG_EVERY = 2.0  # seconds from the first refusal until the log has a line
_LARGE = 65_536  # bytes of a body from which on a thread checks its signature
_REFUSED = (
    "there is no source with this name, or the request is not signed with its secret: check the name in the "
    "URL, and the secret at the sender"
)


class Hooks:
    """The sources, and the check of the requests that claim to come from them.

    Args:
        clock: microseconds since 1970.

    Attributes:
        counts: what became of webhooks, by source and outcome. The name of what does not exist is empty.
    """

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._sources: dict[str, Source] = {}
        self._nobody = secrets.token_bytes(32)  # the key of what does not exist: no signature fits it
        self._refused: dict[str | None, tuple[int, str]] = {}
        self.counts: Counter[tuple[str, str]] = Counter()

    def load(self, sources: list[Source]) -> None:
        """Replace the sources by those in the store."""
        self._sources = {source.name: source for source in sources}
        for known in [known for known in self.counts if known[0] and known[0] not in self._sources]:
            del self.counts[known]

    async def admit(self, name: str, headers: signatures.Headers, body: bytes) -> Source:
        """Return the source of a request. It takes the same time for a source that does not exist.

        Raises:
            BadSignature: there is no such source, or the request is not signed with its secret.
        """
        source = self._sources.get(name)
        kind = "hmac" if source is None else source.kind
        header = SIGNATURE_HEADER if source is None else source.signature_header or SIGNATURE_HEADER
        claim, now = signatures.read(kind, headers, header), self._clock()
        work = (claim, self._keys(source, now), body, now / 1e6)
        if len(body) <= _LARGE:
            trouble = signatures.check(*work)
        else:
            trouble = await asyncio.to_thread(signatures.check, *work)
        if source is None or trouble is not None:
            self.counts["" if source is None else name, "refused"] += 1
            self._note(None if source is None else name, trouble or "")
            raise BadSignature(_REFUSED)
        return source

    def _keys(self, source: Source | None, now: int) -> tuple[bytes, bytes]:
        if source is None:
            return self._nobody, self._nobody
        before, until = source.previous_secret, source.previous_until
        valid = before is not None and (until is None or now < until)
        return (
            signing_key(source.kind, source.secret),
            signing_key(source.kind, before) if before is not None and valid else self._nobody,
        )

    def _note(self, name: str | None, why: str) -> None:
        """Count a refused request. The log has one line for each source, and one for all unknown names."""
        if not self._refused:
            asyncio.get_running_loop().call_later(LOG_EVERY, self._write)
        count = self._refused.get(name, (0, ""))[0]
        self._refused[name] = (count + 1, why)

    def _write(self) -> None:
        refused, self._refused = self._refused, {}
        for name, (count, why) in refused.items():
            if name is None:
                log.warning("%d webhooks were refused: no source has the name in their URL", count)
            else:
                text = "%d webhooks for the source %r were refused, the last one because %s"
                log.warning(text, count, name, why)
