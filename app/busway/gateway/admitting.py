"""Composes what admits requests, as the settings say."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AsyncExitStack

from busway.gateway.access.gate import Gate
from busway.gateway.access.origins import Origins
from busway.gateway.access.signers import NO_KEYS, IssuerKeys
from busway.gateway.access.ticket import SharedTickets
from busway.gateway.settings import Settings
from busway.gateway.subscribers.hub import Hub


def make_gate(
    settings: Settings,
    clock: Callable[[], int],
    tickets: SharedTickets | None,
    secret: bytes | None,
    hub: Hub,
    stack: AsyncExitStack,
) -> tuple[Gate, IssuerKeys]:
    """Return what admits requests, and the keys of the issuer of tokens, which are read from now on.

    Args:
        settings: the settings.
        clock: microseconds since 1970.
        tickets: those that other nodes accept, too. None: there are no other nodes.
        secret: of the cell. None: there are no other nodes.
        hub: has the connections, which end with their access.
        stack: ends what has to be stopped.
    """
    issuer, origins = settings.issuer, Origins(settings.allow_origin)
    closed = settings.keys_file is not None
    tokens, keys = (None, NO_KEYS) if issuer is None else issuer.tokens(clock)
    gate = Gate(
        clock,
        origins,
        shared=tickets,
        tokens=tokens,
        closed=closed,
        encrypted=settings.tls_cert is not None,
        secret=secret,
    )
    hub.admits = gate.holds

    def changed() -> None:
        gate.count_again()
        for sink in list(hub.sinks):
            if sink.access.signer and not gate.holds(sink.access):
                sink.close(4401, "the key that signed the token is no longer one of its issuer", flush=False)

    keys.start(changed)
    stack.callback(keys.stop)
    return gate, keys
