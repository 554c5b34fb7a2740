"""The environment of processes that run handler code: without what belongs to the gateway."""

from __future__ import annotations

import os
import pwd
from collections.abc import Mapping

from busway.gateway.executors.python.child.secret_files import PREFIX

_GATEWAY = "BUSWAY_"
_FOR_HANDLERS = frozenset({"BUSWAY_URL"})  # where a client in handler code finds the gateway; it has no key
_POSTGRES = frozenset({"PGPASSWORD", "PGPASSFILE", "PGSERVICEFILE", "PGSSLKEY", "PGSSLPASSWORD"})


def handler_environment(
    environment: Mapping[str, str], *, user: str = "", postgres: bool = False
) -> dict[str, str]:
    """Return the variables for the processes that run handler code.

    Variables of Busway are left out, but for `BUSWAY_URL` and `BUSWAY_SECRET_…`.

    Args:
        environment: that of the gateway, with the secrets of handlers.
        user: the user that these processes become. Empty: they stay what they are.
        postgres: the database is PostgreSQL, so credentials in variables of libpq are the gateway's.
    """
    kept = {
        name: value
        for name, value in environment.items()
        if not name.upper().startswith(_GATEWAY) or name in _FOR_HANDLERS or name.startswith(PREFIX)
    }
    if postgres:
        for name in _POSTGRES:
            kept.pop(name, None)
    if user:
        entry = pwd.getpwnam(user)
        kept |= {"HOME": entry.pw_dir, "USER": entry.pw_name, "LOGNAME": entry.pw_name}
    return kept


def let_read(descriptor: int, user: str) -> None:
    """Let a user open a pipe again that this process has made, as its own processes may.

    Raises:
        OSError: this process may not.
    """
    if user:
        entry = pwd.getpwnam(user)
        os.fchown(descriptor, entry.pw_uid, entry.pw_gid)
