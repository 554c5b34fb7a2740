"""SQL that each database spells in its own way. The drivers compile these constructs."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.sql.functions import FunctionElement


class among(FunctionElement[bool]):  # noqa: N801 - used like a function of SQL
    """Whether a column has one of the values of a bound list: `among(column, bindparam("numbers"))`."""

    type = sa.Boolean()
    inherit_cache = True

    def self_group(self, against: Any = None) -> Any:  # noqa: ARG002 - of SQLAlchemy
        """Return itself: SQLAlchemy would add `= 1` for SQLite, which then cannot use an index."""
        return self


class json_payload(FunctionElement[Any]):  # noqa: N801
    """A payload that is JSON, as text, else null: `json_payload(data, binary)`."""

    type = sa.types.NullType()
    inherit_cache = True


class binary_payload(FunctionElement[Any]):  # noqa: N801
    """A payload that is not JSON, as hexadecimal digits, else null: `binary_payload(data, binary)`."""

    type = sa.types.NullType()
    inherit_cache = True


class without_traceback(FunctionElement[str]):  # noqa: N801
    """The JSON text of an error without its traceback. Null if it cannot be read."""

    type = sa.Text()
    inherit_cache = True


class text_bytes(FunctionElement[int]):  # noqa: N801
    """The size of a text in bytes, 0 if it is null. SQLite's `length` counts characters up to a NUL."""

    type = sa.Integer()
    inherit_cache = True


def at_most(count: int | None = None) -> sa.BindParameter[int]:
    """Return a limit, which may exceed 32 bits. None: the bound parameter `limit`."""
    if count is None:
        return sa.bindparam("limit", type_=sa.BigInteger)
    return sa.literal(count, sa.BigInteger)
