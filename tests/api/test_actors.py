"""How the audit log names who asked for a change."""

from __future__ import annotations

import pytest
from busway.gateway.access.scopes import OPEN, Access
from busway.gateway.store.port.audit import Audited, Entry, acting, audited
from busway.gateway.store.port.operations import DeleteSchedule, RevokeKey, TakeDurable

ENTRY = Entry(actor="key:3", action="key.revoked", time=1)


@pytest.mark.parametrize(
    ("access", "actor"),
    [
        (OPEN, "open"),
        (Access(3, frozenset(), name="me"), "key:3"),
        (Access(3, frozenset(), name="me", source="session"), "key:3"),
        (Access(1 << 40, frozenset(), name="me", source="file"), f"file:{1 << 40}"),
        (
            Access(-5, frozenset(), name="alice@example.com", source="token", signer="k"),
            "token:alice@example.com",
        ),
        (Access(-5, frozenset(), name="alice", source="session", signer="k"), "token:alice"),
    ],
)
def test_actors(access: Access, actor: str) -> None:
    assert access.actor == actor


def test_only_changes_of_the_request_itself_have_its_entry() -> None:
    """A task or a timer that the request began goes on with its context, and is not the request."""
    revoke = RevokeKey(id=1, now=1)
    assert audited(revoke) is revoke
    with acting(ENTRY) as who:
        assert audited(revoke) == Audited(entry=ENTRY, operation=revoke)
        assert audited(TakeDurable(name="x")) == TakeDurable(name="x")
        with acting(ENTRY):
            pass
        audited(DeleteSchedule(name="daily"))
        assert (who.changed, who.object) == (2, "daily")
        who.over = True
        assert audited(revoke) is revoke
    assert audited(revoke) is revoke
