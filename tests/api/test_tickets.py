"""Tickets and the gate that takes them, with time passed in."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from busway.gateway.access import ticket
from busway.gateway.access.gate import Gate
from busway.gateway.access.keys import digest, key_text
from busway.gateway.access.scopes import OPEN, Access
from busway.gateway.access.ticket import SharedTickets, TicketError, Tickets, TooManyTickets
from busway.gateway.errors import Forbidden, Misdirected, Unauthorized, Unavailable
from busway.gateway.store.port.reader import KeyRecord

HERE = [(b"host", b"localhost:8000")]


class Clocks:
    """Wall time in microseconds and monotonic time in seconds, moved by hand."""

    def __init__(self) -> None:
        self.wall, self.seconds = 10**15, 100.0

    def gate(self, **more: Any) -> Gate:
        return Gate(lambda: self.wall, monotonic=lambda: self.seconds, **more)


def record(id_: int, *scopes: str, **fields: Any) -> KeyRecord:
    known: dict[str, Any] = {"created_at": 0, "expires_at": None, "revoked_at": None} | fields
    return KeyRecord(id=id_, name="k", digest=digest(f"s{id_}"), scopes=list(scopes), **known)


def shown(id_: int) -> list[tuple[bytes, bytes]]:
    return [*HERE, (b"authorization", f"Bearer {key_text(id_, f's{id_}')}".encode())]


def enter(gate: Gate, headers: list[tuple[bytes, bytes]], text: bytes) -> Access:
    ticket = gate.admit_subscriber(headers, text)
    assert isinstance(ticket, str)
    return asyncio.run(gate.redeem(ticket))


def query(text: str) -> bytes:
    return f"types=a.*&ticket={text}".encode()


def test_a_ticket_opens_once() -> None:
    tickets = Tickets()
    text = tickets.issue(7, 1.0)
    assert tickets.redeem(text, 2.0) == 7
    with pytest.raises(TicketError, match="was used"):
        tickets.redeem(text, 3.0)


@pytest.mark.parametrize(("after", "says"), [(30.0, "expired"), (59.9, "expired"), (61.0, "unknown ticket")])
def test_a_ticket_is_good_for_30_seconds(after: float, says: str) -> None:
    tickets = Tickets()
    assert tickets.redeem(tickets.issue(None, 5.0), 34.9) is None
    text = tickets.issue(7, 40.0)
    with pytest.raises(TicketError, match=says):
        tickets.redeem(text, 40.0 + after)


def test_tickets_are_bounded_and_make_room_with_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket, "MOST", 3)
    tickets = Tickets()
    texts = [tickets.issue(1, float(n)) for n in range(3)]
    tickets.redeem(texts[1], 4.0)  # used ones count: they are what says why the second use is refused
    with pytest.raises(TooManyTickets) as refusal:
        tickets.issue(1, 10.0)
    assert refusal.value.seconds == 50.0
    assert tickets.redeem(texts[0], 10.0) == 1
    assert tickets.issue(1, 60.0)


def test_one_key_cannot_take_all_tickets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket, "MOST_OF_KEY", 3)
    tickets = Tickets()
    tickets.issue(2, 0.0)
    for n in range(3):
        tickets.issue(1, 5.0 + n)
    with pytest.raises(TooManyTickets) as refusal:
        tickets.issue(1, 10.0)
    assert refusal.value.seconds == 55.0
    assert tickets.issue(2, 10.0)
    assert [tickets.issue(None, 10.0) for _ in range(5)]  # without keys there is no other one
    assert tickets.issue(1, 65.5)
    assert len(tickets._of_key) == 3
    tickets.issue(3, 1000.0)
    assert set(tickets._of_key) == {3}


def test_no_two_tickets_are_alike_and_each_fits_a_query() -> None:
    tickets = Tickets()
    texts = {tickets.issue(1, 0.0) for _ in range(1_000)}
    assert len(texts) == 1_000
    assert all(text.replace("_", "").replace("-", "").isalnum() and len(text) > 40 for text in texts)


def test_reasons_fit_a_close_frame() -> None:
    tickets = Tickets()
    used, old = tickets.issue(1, 31.0), tickets.issue(1, 31.0)
    tickets.redeem(used, 31.0)
    for text, now in (("x", 31.0), (used, 32.0), (old, 70.0)):
        with pytest.raises(TicketError) as refusal:
            tickets.redeem(text, now)
        assert len(str(refusal.value).encode()) <= 123


def test_a_shared_ticket_opens_once_at_any_node() -> None:
    now, used = 10**15, set()

    async def redeem(id_: str, until: int) -> bool:
        assert until == 10**15 + 60_000_000
        fresh = id_ not in used
        used.add(id_)
        return fresh

    one, two = (SharedTickets(b"secret", lambda: now, redeem) for _ in range(2))
    other = SharedTickets(b"another", lambda: now, redeem)
    text, late = one.issue(7), one.issue(None)
    for forged in (text[:-1], text[:-2] + "BB", text + "AA", "bwt_", "x", "bwt_é", "", other.issue(7)):
        with pytest.raises(TicketError, match="unknown ticket"):
            asyncio.run(two.redeem(forged))
    assert asyncio.run(two.redeem(text)) == 7
    with pytest.raises(TicketError, match="used already"):
        asyncio.run(one.redeem(text))
    now += 30_000_000
    with pytest.raises(TicketError, match="expired"):
        asyncio.run(two.redeem(late))
    assert len(used) == 1
    texts = {one.issue(7) for _ in range(1_000)}
    assert len(texts) == 1_000
    assert all(text.replace("_", "").replace("-", "").isalnum() for text in texts)


def test_a_ticket_stands_for_the_key_as_it_is_when_it_is_used() -> None:
    clocks = Clocks()
    gate = clocks.gate()
    gate.load([record(1, "publish"), record(2, "admin")])
    text = gate.ticket(gate.admit(shown(1)))
    assert enter(gate, HERE, query(text)) == Access(1, frozenset({"publish"}), name="k")


def revoke(gate: Gate, _: Clocks) -> None:
    gate.load([record(1, "publish", revoked_at=5), record(2, "admin")])


def expire(_: Gate, clocks: Clocks) -> None:
    clocks.wall += 2


def remove(gate: Gate, _: Clocks) -> None:
    gate.load([record(2, "admin")])


@pytest.mark.parametrize("ended", [revoke, expire, remove])
def test_a_ticket_ends_with_its_key(ended: Callable[[Gate, Clocks], None]) -> None:
    clocks = Clocks()
    gate = clocks.gate()
    gate.load([record(1, "publish", expires_at=clocks.wall + 1), record(2, "admin")])
    text = gate.ticket(gate.admit(shown(1)))
    ended(gate, clocks)
    with pytest.raises(Unauthorized, match="key of this ticket"):
        enter(gate, HERE, query(text))


def test_an_open_gateway_gives_tickets_that_end_with_its_openness() -> None:
    gate = Clocks().gate()
    first, second = gate.ticket(gate.admit(HERE)), gate.ticket(gate.admit(HERE))
    assert enter(gate, HERE, query(first)) is OPEN
    gate.load([record(1, "admin")])
    with pytest.raises(Unauthorized, match="before the first key"):
        enter(gate, HERE, query(second))


def test_a_ticket_excuses_nothing_but_the_key_and_is_not_used_up_by_a_refusal() -> None:
    clocks = Clocks()
    gate = clocks.gate()
    text = gate.ticket(gate.admit(HERE))
    with pytest.raises(Forbidden):
        enter(gate, [*HERE, (b"origin", b"https://evil.example")], query(text))
    with pytest.raises(Misdirected):
        enter(gate, [(b"host", b"evil.example")], query(text))
    assert enter(gate, HERE, query(text)) is OPEN


def test_too_many_tickets_are_refused_with_when_to_ask_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ticket, "MOST", 1)
    gate = Clocks().gate()
    gate.ticket(OPEN)
    with pytest.raises(Unavailable) as refusal:
        gate.ticket(OPEN)
    assert refusal.value.retry_after == 60


def test_time_that_passes_ends_tickets_not_the_time_of_day() -> None:
    clocks = Clocks()
    gate = clocks.gate()
    text, late = gate.ticket(OPEN), gate.ticket(OPEN)
    clocks.wall += 3_600 * 1_000_000
    assert enter(gate, HERE, query(text)) is OPEN
    clocks.seconds += 30
    with pytest.raises(Unauthorized, match="expired"):
        enter(gate, HERE, query(late))
