"""A reader of Server-Sent Events, by the rules of WHATWG HTML section 9.2.6, for bytes as they come."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class Told:
    """One event as a browser would dispatch it."""

    name: str
    data: str
    id: str


@dataclass
class Reader:
    """Give it chunks, take events; `last_id` and `retry` are what an EventSource would keep."""

    last_id: str = ""
    retry: int | None = None
    comments: int = 0
    _rest: bytes = b""
    _name: str = ""
    _data: list[str] = field(default_factory=list)

    def feed(self, chunk: bytes) -> list[Told]:
        *lines, self._rest = (self._rest + chunk).split(b"\n")
        told = [self._line(line.decode()) for line in lines]
        return [event for event in told if event]

    def _line(self, line: str) -> Told | None:
        assert "\r" not in line
        if not line:
            return self._dispatch()
        name, _, value = line.partition(":")
        value = value.removeprefix(" ")
        if not name:
            self.comments += 1
        elif name == "data":
            self._data.append(value)
        elif name == "event":
            self._name = value
        elif name == "id":
            self.last_id = value
        elif name == "retry":
            self.retry = int(value)
        else:
            raise AssertionError(f"no field {name!r}")
        return None

    def _dispatch(self) -> Told | None:
        event = Told(self._name or "message", "\n".join(self._data), self.last_id)
        self._name, data, self._data = "", self._data, []
        return event if data else None
