"""Breakers of handlers: count failed attempts in the transaction that settles them, and pause the handler."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from busway.domain.breaker import Pause
from busway.domain.handler import Handler
from busway.domain.run import Outcome
from busway.domain.times import SECOND
from busway.gateway.store.core import publishing
from busway.gateway.store.core.ledger import BreakerState, Ledger
from busway.gateway.store.core.records import HANDLER_COLUMNS, HandlerRow, handler
from busway.gateway.store.core.schema import breakers, handlers
from busway.gateway.store.port.operations import Publish, Settle

_state = sa.select(breakers.c.state).where(breakers.c.handler == sa.bindparam("handler"))
_handler = sa.select(*HANDLER_COLUMNS).where(handlers.c.id == sa.bindparam("id"))
_decode = msgspec.json.Decoder(BreakerState).decode


def count(ledger: Ledger, operation: Settle) -> Handler | None:
    """Count an outcome. Return the handler if it is paused now.

    It pauses after so many failures without a success, or after one if it was resumed by itself and no
    attempt has succeeded since.
    """
    check = operation.breaker
    if check is None:
        return None
    state, outcome = _load(ledger, operation.handler), operation.report.outcome
    if outcome == Outcome.SUCCEEDED and (state.failed_at or state.half_open):
        _save(ledger, operation.handler, BreakerState())
    if outcome != Outcome.FAILED:
        return None
    now, rule = operation.report.finished_at, check.rule
    failed_at = [at for at in state.failed_at if at > now - rule.within * SECOND] + [now]
    if len(failed_at) < rule.failures and not state.half_open:
        _save(ledger, operation.handler, BreakerState(failed_at))
        return None
    return _pause(ledger, operation, len(failed_at), half_open=state.half_open)


def forget(ledger: Ledger, number: int) -> None:
    """Count from the beginning, because somebody resumed the handler."""
    _save(ledger, number, BreakerState())


def find_paused(ledger: Ledger, operation: Settle) -> Handler | None:
    """Return the handler of an outcome if its breaker has paused it: the reply that says so was lost."""
    if operation.breaker is None:
        return None
    (row,) = ledger.transaction.fetch(_handler, HandlerRow, {"id": operation.handler})
    found = handler(row)
    return found if found.pause is not None else None


def _pause(ledger: Ledger, operation: Settle, failures: int, *, half_open: bool) -> Handler | None:
    check = operation.breaker
    (row,) = ledger.transaction.fetch(_handler, HandlerRow, {"id": operation.handler})
    before = handler(row)
    if check is None or before.deleted or before.spec.paused:
        return None
    now, rule = operation.report.finished_at, check.rule
    reason = (
        "an attempt failed after it was resumed by itself"
        if half_open
        else f"{failures} attempts failed within {rule.within:g} s, and none succeeded between them"
    )
    until = None if rule.seconds is None else now + round(rule.seconds * SECOND)
    paused = msgspec.structs.replace(
        before,
        overrides={**before.overrides, "paused": True},
        pause=Pause(by="breaker", reason=reason, since=now, until=until),
        updated_at=max(now, before.updated_at + 1),
    )
    values = {
        "overrides": msgspec.json.encode(paused.overrides).decode(),
        "pause": msgspec.json.encode(paused.pause).decode(),
        "updated_at": paused.updated_at,
    }
    ledger.transaction.execute(sa.update(handlers).where(handlers.c.id == before.id), values)
    _save(ledger, before.id, BreakerState(half_open=True))
    publishing.publish(ledger, Publish(events=check.notices))
    if ledger.head.rules:
        ledger.head.rules += 1
    return paused


def _load(ledger: Ledger, number: int) -> BreakerState:
    known = ledger.breakers.get(number)
    if known is None:
        found = ledger.transaction.fetch(_state, tuple[str], {"handler": number})
        known = ledger.breakers[number] = _decode(found[0][0]) if found else BreakerState()
    return known


def _save(ledger: Ledger, number: int, state: BreakerState) -> None:
    ledger.breakers[number] = state
    execute = ledger.transaction.execute
    execute(sa.delete(breakers).where(breakers.c.handler == number))
    if state.failed_at or state.half_open:
        text = msgspec.json.encode(state).decode()
        execute(sa.insert(breakers), {"handler": number, "state": text})
