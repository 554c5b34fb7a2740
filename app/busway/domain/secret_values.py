"""The secrets that handler code reads as `ctx.secrets["NAME"]`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping


class MissingSecret(KeyError):
    """There is no secret with this name. The message says where to put it."""

    def __str__(self) -> str:
        """Return the message. A `KeyError` would show it in quotes."""
        return str(self.args[0])


class Secrets(Mapping[str, str]):
    """Secrets by name. Each look-up reads the present value.

    Args:
        find: returns the value of a secret, None if there is none.
        names: returns the names of all secrets.
        advice: where to put a secret, for the message about a missing one. `{name}` stands for its name.
    """

    __slots__ = ("_advice", "_find", "_names")

    def __init__(
        self, find: Callable[[str], str | None], names: Callable[[], Iterable[str]], advice: str
    ) -> None:
        self._find, self._names, self._advice = find, names, advice

    def __getitem__(self, name: str) -> str:
        """Return the value of a secret.

        Raises:
            MissingSecret: there is none with this name.
            OSError, ValueError: the file with the secrets cannot be read.
        """
        value = self._find(name) if isinstance(name, str) else None
        if value is None:
            raise MissingSecret(f"there is no secret {name!r}: {self._advice.format(name=name)}")
        return value

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._names()))

    def __len__(self) -> int:
        return len(set(self._names()))

    def __repr__(self) -> str:
        """Return the names. Values never appear in a traceback or a log."""
        return f"<Secrets: {', '.join(self) or 'none'}>"


def given(values: Mapping[str, str], advice: str) -> Secrets:
    """Return secrets that are in memory."""
    return Secrets(values.get, lambda: values, advice)
