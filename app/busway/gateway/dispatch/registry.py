"""The registered handlers and the catalog of the handlers folder. Decides which handlers an event starts."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import msgspec

from busway.contract.handlers import BrokenFile
from busway.domain.event import NewEvent
from busway.domain.filter import Test, View, compile_filter, count_comparisons
from busway.domain.handler import Handler, Spec
from busway.domain.pattern import Matcher, PatternIndex, matcher
from busway.gateway.executors.port import Catalog, HandlerFile

CACHE_BYTES = 4 * 1024 * 1024  # of types that were matched
STEP = 4_000  # comparisons of filters in one step
_NEW_TYPE = 50  # what finding the handlers of a new type counts
_OVERHEAD = 200  # bytes of an entry besides its type and its handlers


class RegisteredHandler(msgspec.Struct):
    """A handler with values derived from it: effective fields, patterns, limits, filter."""

    handler: Handler
    spec: Spec
    matches: Matcher
    limited: bool = False
    test: Test | None = None
    comparisons: int = 0

    @property
    def patterns(self) -> tuple[str, ...]:
        """Its patterns, none if it matches no events."""
        return () if self.handler.deleted or self.handler.missing else self.spec.events

    def starts(self, event: NewEvent) -> bool:
        """Return whether its patterns and its filter match an event, even if the handler is paused."""
        return self.matches(event.type) and (self.test is None or self.test(View(event)))


class _Candidates(msgspec.Struct, frozen=True):
    """The handlers whose patterns match one type, and filters with their comparisons."""

    ids: tuple[int, ...]
    tests: dict[int, tuple[Test, int]]

    def pick(self, event: NewEvent) -> tuple[int, ...]:
        """Return the handlers whose filters match. The payload is decoded at most once for all of them."""
        view, tests = View(event), self.tests
        return tuple(id_ for id_ in self.ids if id_ not in tests or tests[id_][0](view))


def _always(_view: View) -> bool:
    return True


_NO_TEST = (_always, 1)


class Registry:
    """All handlers ever created, also deleted ones, by number and by name."""

    def __init__(self) -> None:
        self.catalog: Catalog = []
        self._files: dict[str, HandlerFile] = {}
        self._kinds: dict[str, str] = {}
        self._entries: dict[int, RegisteredHandler] = {}
        self._by_name: dict[str, RegisteredHandler] = {}
        self._matched: dict[str, _Candidates] = {}
        self._matched_bytes = 0
        self._index: PatternIndex[int] | None = None
        self.edition = object()  # replaced when handlers change

    def load(self, handlers: list[Handler], catalog: Catalog) -> None:
        """Load the handlers from the store and the catalog of the handlers folder."""
        self.catalog = catalog
        self._files = {file.module: file for file in catalog if file.digest or file.error}
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
        cost = 0 if spec.filter is None else count_comparisons(spec.filter)
        entry = RegisteredHandler(handler, spec, matcher(spec.events), limited, test, cost)
        self._reindex(self._entries.get(handler.id), entry)
        self._entries[handler.id] = self._by_name[handler.name] = entry
        self._forget()
        self.edition = object()

    def _reindex(self, before: RegisteredHandler | None, entry: RegisteredHandler) -> None:
        old, new = () if before is None else before.patterns, entry.patterns
        if not old and self._index is not None:
            for pattern in new:
                self._index.add(pattern, entry.handler.id)
        elif old != new:
            self._index = None

    def _forget(self) -> None:
        self._matched.clear()
        self._matched_bytes = 0

    def match(self, event: NewEvent) -> tuple[int, ...]:
        """Return the numbers of the handlers that an event starts, including paused ones."""
        known = self._matched.get(event.type)
        if known is None:
            known = self._candidates(event.type)
        return known.pick(event) if known.tests else known.ids

    def match_all(self, events: list[NewEvent]) -> Iterator[None]:
        """Set the handlers of new events, including paused ones, in steps of about `STEP` comparisons."""
        spent, matched = 0, self._matched
        for event in events:
            known = matched.get(event.type)
            if known is None:
                known = self._candidates(event.type)
                spent += _NEW_TYPE
            if known.tests:
                chosen, view = [], View(event)
                for id_ in known.ids:
                    test, cost = known.tests.get(id_, _NO_TEST)
                    if spent > STEP:
                        yield
                        spent = 0
                    spent += cost
                    if test(view):
                        chosen.append(id_)
                event.handlers = tuple(chosen)
            else:
                event.handlers = known.ids
                if spent > STEP:
                    yield
                    spent = 0

    def _candidates(self, type_: str) -> _Candidates:
        if self._index is None:
            self._index = self._indexed()
        ids = tuple(sorted(set(self._index.find(type_))))
        tests = {
            id_: (entry.test, entry.comparisons)
            for id_ in ids
            if (entry := self._entries[id_]).test is not None
        }
        found = _Candidates(ids, tests)
        size = sys.getsizeof(type_) + sys.getsizeof(ids) + sys.getsizeof(tests) + 64 * len(tests)
        if self._matched_bytes + size > CACHE_BYTES:
            self._forget()
        self._matched[type_] = found
        self._matched_bytes += size + _OVERHEAD
        return found

    def _indexed(self) -> PatternIndex[int]:
        index: PatternIndex[int] = PatternIndex()
        for id_, entry in self._entries.items():
            for pattern in entry.patterns:
                index.add(pattern, id_)
        return index

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

    def has_module(self, target: str) -> bool:
        """Return whether the module of a target was loaded, or failed."""
        return target.partition(":")[0] in self._files

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
        broken = self.broken_files()
        if file is not None and any(each.file == file.file for each in broken):
            return self.fault_of(file.file)
        if file is None and broken:  # it may be what would import the module
            return f"no file imports its module, and {broken[0].file} does not import"
        return f"the handlers folder has no target {target}"

    def fault_of(self, file: str) -> str:
        """Return what is wrong with a file of `broken_files`, in one phrase."""
        partly = any(each.file == file and each.error is None for each in self.catalog)
        return f"{file} {'has targets that cannot be loaded' if partly else 'does not import'}"

    def broken_files(self) -> list[BrokenFile]:
        """Return the files that cannot be imported, each with its traceback."""
        return [BrokenFile(file.file, file.error) for file in self.catalog if file.error is not None]

    def not_loaded(self) -> list[BrokenFile]:
        """Return what else was found in the handlers folder and is not loaded, each with the reason."""
        return [BrokenFile(file.file, note) for file in self.catalog for note in file.notes]
