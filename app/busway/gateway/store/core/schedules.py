"""Schedules. A firing and its event are one transaction, so that it happens once."""

from __future__ import annotations

import msgspec
import sqlalchemy as sa

from busway.domain.firing import timing
from busway.domain.schedule import Schedule
from busway.gateway.store.core.constructs import at_most
from busway.gateway.store.core.ledger import Ledger
from busway.gateway.store.core.publishing import store
from busway.gateway.store.core.schema import schedules
from busway.gateway.store.core.transaction import Snapshot
from busway.gateway.store.port.operations import DeleteSchedule, Fire, SaveSchedule, StoredEvent
from busway.gateway.store.port.reader import ScheduleTiming


class _Row(msgspec.Struct, array_like=True):
    name: str
    version: int
    cron: str | None
    every: str | None
    timezone: str
    event: str
    catch_up: str
    paused: int
    description: str
    anchor: int
    after: int
    last_fired_at: int | None
    created_at: int
    updated_at: int


class _TimingRow(msgspec.Struct, array_like=True):
    name: str
    cron: str | None
    every: str | None
    timezone: str
    anchor: int
    after: int


_columns = [schedules.c[name] for name in _Row.__struct_fields__]
_this = schedules.c.name == sa.bindparam("which")
_one = sa.select(*_columns).where(_this)
_state = sa.select(schedules.c.version, schedules.c.after, schedules.c.last_fired_at).where(_this)
_count = sa.select(sa.func.count()).select_from(schedules)
_page = (
    sa.select(*_columns)
    .where(schedules.c.name > sa.bindparam("above"))
    .order_by(schedules.c.name)
    .limit(at_most())
)
_timings = (
    sa.select(*(schedules.c[name] for name in _TimingRow.__struct_fields__))
    .where(schedules.c.paused == 0)
    .order_by(schedules.c.name)
)


def save_schedule(ledger: Ledger, operation: SaveSchedule) -> str | None:
    """Insert a schedule, or replace the version before. Firings since it was read are kept."""
    transaction, new = ledger.transaction, operation.schedule
    known = transaction.fetch(_state, tuple[int, int, int | None], {"which": new.name})
    row = {**msgspec.structs.asdict(new), "paused": int(new.paused)}
    if new.version == 1:
        if known:
            return "taken"
        ((count,),) = transaction.fetch(_count, tuple[int])
        if count >= operation.most:
            return "full"
        transaction.execute(sa.insert(schedules), row)
    else:
        if not known or known[0][0] != new.version - 1:
            return "changed"
        _, after, last_fired_at = known[0]
        row |= {"after": max(after, new.after), "last_fired_at": last_fired_at}
        transaction.execute(sa.update(schedules).where(schedules.c.name == new.name), row)
    transaction.keys_changed()
    return None


def delete_schedule(ledger: Ledger, operation: DeleteSchedule) -> bool:
    """Delete a schedule."""
    deleted = ledger.transaction.execute(sa.delete(schedules).where(schedules.c.name == operation.name))
    ledger.transaction.keys_changed()
    return bool(deleted.rowcount)


def fire(ledger: Ledger, operation: Fire) -> list[StoredEvent] | None:
    """Store the events of firings, unless the schedule was changed or fired meanwhile."""
    transaction = ledger.transaction
    known = transaction.fetch(_state, tuple[int, int, int | None], {"which": operation.name})
    if not known or known[0][0] != operation.version:
        return None
    changed = {} if operation.fired_at is None else {"last_fired_at": operation.fired_at}
    if operation.until is not None:
        if known[0][1] != operation.after:
            return None
        changed["after"] = operation.until
    stored = [store(ledger, new) for new in operation.events]
    transaction.execute(sa.update(schedules).where(schedules.c.name == operation.name), changed)
    return stored


def find_schedule(snapshot: Snapshot, name: str) -> Schedule | None:
    """Return one schedule."""
    rows = snapshot.fetch(_one, _Row, {"which": name})
    return _schedule(rows[0]) if rows else None


def find_schedules(snapshot: Snapshot, after: str, limit: int) -> list[Schedule]:
    """Return up to `limit` schedules with a name above `after`, by name."""
    return [_schedule(row) for row in snapshot.fetch(_page, _Row, {"above": after, "limit": limit})]


def find_timings(snapshot: Snapshot) -> list[ScheduleTiming]:
    """Return when each schedule that is not paused fires."""
    return [
        ScheduleTiming(row.name, timing(row.cron, row.every, row.timezone, row.anchor), row.after)
        for row in snapshot.fetch(_timings, _TimingRow)
    ]


def _schedule(row: _Row) -> Schedule:
    return Schedule(**{**msgspec.structs.asdict(row), "paused": bool(row.paused)})
