"""The registered handlers and the catalog of the handlers folder. Decides which handlers an event starts."""

from __future__ import annotations

import msgspec

from busway.contract.handlers import BrokenFile
from busway.domain.event import NewEvent
from busway.domain.filter import Test, View, compile_filter
from busway.domain.handler import Handler, Spec
from busway.domain.pattern import Matcher, matcher
from busway.gateway.executors.port import Catalog, HandlerFile

_CACHED_TYPES = 10_000


class RegisteredHandler(msgspec.Struct):
    """A handler with values derived from it: effective fields, patterns, limits, filter."""

    handler: Handler
    spec: Spec
    matches: Matcher
    limited: bool = False
    test: Test | None = None

    def starts(self, event: NewEvent) -> bool:
        """Return whether its patterns and its filter match an event, even if the handler is paused."""
        return self.matches(event.type) and (self.test is None or self.test(View(event)))


class _Candidates(msgspec.Struct, frozen=True):
    """The handlers whose patterns match one type, and the filters of those that have one."""

    ids: tuple[int, ...]
    tests: dict[int, Test]

    def pick(self, event: NewEvent) -> tuple[int, ...]:
        """Return the handlers whose filters match. The payload is decoded at most once for all of them."""
        view, tests = View(event), self.tests
        return tuple(id_ for id_ in self.ids if id_ not in tests or tests[id_](view))


class Registry:
    """All handlers ever created, also deleted ones, by number and by name."""

    def __init__(self) -> None:
        self.catalog: Catalog = []
        self._files: dict[str, HandlerFile] = {}
        self._kinds: dict[str, str] = {}
        self._entries: dict[int, RegisteredHandler] = {}
        self._by_name: dict[str, RegisteredHandler] = {}
        self._matched: dict[str, _Candidates] = {}

    def load(self, handlers: list[Handler], catalog: Catalog) -> None:
        """Load the handlers from the store and the catalog of the handlers folder."""
        self.catalog = catalog
        self._files = {file.module: file for file in catalog}
        self._kinds = {target.target: target.kind for file in catalog for target in file.targets}
        self.take(handlers)

    def take(self, handlers: list[Handler]) -> None:
        """Add or replace handlers that were just committed."""
        for handler in handlers:
            self._put(handler)

    def _put(self, handler: Handler) -> None:
        spec = handler.spec
        limited = spec.concurrency is not None or spec.rate is not None
        test = None if spec.filter is None else compile_filter(spec.filter)
        entry = RegisteredHandler(handler, spec, matcher(spec.events), limited, test)
        self._entries[handler.id] = self._by_name[handler.name] = entry
        self._matched.clear()

    def match(self, event: NewEvent) -> tuple[int, ...]:
        """Return the numbers of the handlers that an event starts, including paused ones."""
        known = self._matched.get(event.type)
        if known is None:
            known = self._candidates(event.type)
        return known.pick(event) if known.tests else known.ids

    def _candidates(self, type_: str) -> _Candidates:
        found = {
            id_: entry
            for id_, entry in self._entries.items()
            if not (entry.handler.deleted or entry.handler.missing) and entry.matches(type_)
        }
        if len(self._matched) >= _CACHED_TYPES:
            self._matched.clear()
        tests = {id_: entry.test for id_, entry in found.items() if entry.test is not None}
        self._matched[type_] = _Candidates(tuple(found), tests)
        return self._matched[type_]

    def entry(self, id_: int) -> RegisteredHandler | None:
        """Return a handler by number."""
        return self._entries.get(id_)

    def named(self, name: str) -> RegisteredHandler | None:
        """Return a handler by name, also a deleted one."""
        return self._by_name.get(name)

    def live(self) -> list[RegisteredHandler]:
        """Return all handlers that are not deleted, sorted by name."""
        return [e for _, e in sorted(self._by_name.items()) if not e.handler.deleted]

    def deleted(self) -> list[Handler]:
        """Return the deleted handlers, whose waiting runs must be cancelled."""
        return [e.handler for e in self._entries.values() if e.handler.deleted]

    def kind(self, target: str) -> str | None:
        """Return the kind of a target, None if the folder has no such target now."""
        return self._kinds.get(target)

    def digest(self, target: str) -> str:
        """Return the digest of the target's source file, empty if there is no such file."""
        file = self._files.get(target.partition(":")[0])
        return file.digest if file else ""

    def obstacle(self, entry: RegisteredHandler) -> str | None:
        """Return why runs of a handler wait, None if nothing stops them."""
        if entry.handler.deleted:
            return "it is deleted"
        if entry.handler.missing:
            return "its code no longer declares it: declare it again or delete it"
        if entry.spec.paused:
            return "it is paused"
        return self.missing(entry.spec.target)

    def missing(self, target: str) -> str | None:
        """Return why a target cannot be run, None if it can."""
        if target in self._kinds:
            return None
        file = self._files.get(target.partition(":")[0])
        if file is not None and file.error is not None:
            return f"{file.file} does not import"
        return f"the handlers folder has no target {target}"

    def broken_files(self) -> list[BrokenFile]:
        """Return the files that cannot be imported, each with its traceback."""
        return [BrokenFile(file.file, file.error) for file in self.catalog if file.error is not None]
