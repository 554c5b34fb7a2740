"""The registered handlers and the catalog of the handlers folder. Decides which handlers an event starts."""

from __future__ import annotations

import hashlib
import sys
from collections import defaultdict
from collections.abc import Callable, Iterator

import msgspec

from busway.contract.handlers import BrokenFile
from busway.domain.event import NewEvent
from busway.domain.filter import Test, View, compile_filter, count_comparisons
from busway.domain.handler import Handler, Spec
from busway.domain.operations import PREFIX, asks_for
from busway.domain.operations import SOURCE as OPERATIONS
from busway.domain.pattern import Matcher, PatternIndex, matcher
from busway.domain.signing import Secret
from busway.domain.weburl import HTTP, is_url
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
    here: int = 0
    """Its revision that has the code of this node."""

    @property
    def patterns(self) -> tuple[str, ...]:
        """Its patterns, none if it matches no events."""
        return () if self.handler.deleted or self.handler.missing else self.spec.events

    def starts(self, event: NewEvent) -> bool:
        """Return whether its patterns and its filter match an event, even if the handler is paused."""
        named = event.source != OPERATIONS or self.names(event.type)
        return named and self.matches(event.type) and (self.test is None or self.test(View(event)))

    def names(self, type_: str) -> bool:
        """Return whether it gets events of this type that are about operations."""
        return asks_for(self.spec.events, type_)


class _Candidates(msgspec.Struct, frozen=True):
    """The handlers whose patterns match one type, and filters with their comparisons."""

    ids: tuple[int, ...]
    tests: dict[int, tuple[Test, int]]

    def pick(self, event: NewEvent) -> tuple[int, ...]:
        """Return the handlers whose filters match. The payload is decoded at most once for all of them."""
        view, tests = View(event), self.tests
        return tuple(id_ for id_ in self.ids if id_ not in tests or tests[id_][0](view))


def _of_others(test: Test | None) -> Test:
    """Return a filter that leaves out events about operations."""
    return lambda view: view.event.source != OPERATIONS and (test is None or test(view))


def _always(_view: View) -> bool:
    return True


_NO_TEST = (_always, 1)


class Registry:
    """All handlers ever created, also deleted ones, by number and by name.

    Attributes:
        catalog: what the current handler code defines. If several nodes use the database, this node may have
            other code, or none.
        offered: returns whether another node can run a target. None: there are no other nodes.
        version: of the handlers in the store, 0 if only this node changes them.
        edition: replaced when handlers change.
        delivers: this node sends events to URLs.
    """

    def __init__(self, *, delivers: bool = True) -> None:
        self.catalog: Catalog = []
        self.offered: Callable[[str], bool] | None = None
        self._current: Catalog | None = None  # None: it is this node's
        self._away: set[str] = set()  # modules of code that is newer than that of all open nodes
        self._files: dict[str, HandlerFile] = {}
        self._kinds: dict[str, str] = {}
        self._own_kinds: dict[str, str] = {}
        self._own_digests: dict[str, str] = {}
        self._own: Catalog = []
        self._entries: dict[int, RegisteredHandler] = {}
        self._by_name: dict[str, RegisteredHandler] = {}
        self._matched: dict[str, _Candidates] = {}
        self._matched_bytes = 0
        self._index: PatternIndex[int] | None = None
        self.edition = object()
        self.version = 0
        self.delivers = delivers

    def load(self, handlers: list[Handler], catalog: Catalog) -> None:
        """Load the handlers from the store and the catalog of the handlers folder."""
        self._own_kinds = _kinds(catalog)
        self._own = catalog
        self._own_digests = {file.module: file.digest for file in catalog if file.digest}
        for entry in self._entries.values():
            entry.here = self._revision_here(entry, entry)
        self._use(catalog if self._current is None else self._current)
        self.take(handlers)

    def adopt(self, catalogs: list[Catalog], later: list[Catalog]) -> None:
        """Use the current code of all nodes: of each module the version that appeared last.

        Args:
            catalogs: those of the versions that open nodes have, by first appearance.
            later: those of newer versions, which no open node has. Their nodes may be away for a moment.
        """
        self._away = {file.module for catalog in later for file in catalog}
        modules: dict[str, Catalog] = {}
        for catalog in catalogs:
            newer: defaultdict[str, Catalog] = defaultdict(list)
            for file in catalog:  # one whose targets load in part is there twice
                newer[file.module].append(file)
            modules |= newer
        self._current = [file for files in modules.values() for file in files]
        self._use(self._current)
        self.edition = object()

    def _use(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._files = {file.module: file for file in catalog if file.digest or file.error}
        self._kinds = {**self._own_kinds, **_kinds(catalog)}

    def _revision_here(self, entry: RegisteredHandler, before: RegisteredHandler | None) -> int:
        """Return the revision of a handler that this node runs: an older one while its code is older."""
        own = self._own_digests.get(entry.spec.target.partition(":")[0], "")
        if own in ("", entry.handler.file_digest) or before is None:
            return entry.handler.revision
        return before.here

    def take(self, handlers: list[Handler], version: int = 0) -> None:
        """Add or replace handlers that were committed. With them all handlers are as of this version."""
        for handler in handlers:
            self._put(handler)
        self.version = max(self.version, version)

    def _put(self, handler: Handler) -> None:
        spec = handler.spec
        limited = spec.concurrency is not None or spec.rate is not None
        test = None if spec.filter is None else compile_filter(spec.filter)
        cost = 0 if spec.filter is None else count_comparisons(spec.filter)
        entry = RegisteredHandler(handler, spec, matcher(spec.events), limited, test, cost)
        before = self._entries.get(handler.id)
        entry.here = self._revision_here(entry, before)
        self._reindex(before, entry)
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

    def asked_for(self, notices: list[NewEvent]) -> list[NewEvent]:
        """Match events about operations. Return those that a handler asks for."""
        for event in notices:
            event.handlers = self.match(event)
        return [event for event in notices if event.handlers]

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
        if type_.startswith(PREFIX):
            unnamed = [self._entries[id_] for id_ in ids if not self._entries[id_].names(type_)]
            tests |= {each.handler.id: (_of_others(each.test), each.comparisons + 1) for each in unnamed}
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

    def name_of(self, id_: int) -> str | None:
        """Return the name of a handler, by number."""
        entry = self._entries.get(id_)
        return None if entry is None else entry.handler.name

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
        """Return the kind of a target, None if neither the current code nor this node's has it."""
        kind = self._kinds.get(target)
        return HTTP if kind is None and is_url(target) else kind

    def secrets(self, name: str) -> tuple[Secret, ...]:
        """Return the secrets of a handler, newest first."""
        entry = self._by_name.get(name)
        return () if entry is None else entry.handler.secrets

    def is_declared(self) -> bool:
        """Return whether handlers whose current code this node has are declared as in that code."""
        for file in self._own:
            current = self._files.get(file.module)
            if current is not None and current.digest == file.digest:
                entries = [self.named(declaration.name) for declaration in file.declarations]
                if any(entry is None or entry.handler.deleted for entry in entries):
                    return False
        for entry in self.live():
            target = entry.spec.target
            own = self._own_digests.get(target.partition(":")[0])
            if target in self._own_kinds and own == self.digest(target) != entry.handler.file_digest:
                return False
        return True

    def own_kind(self, target: str) -> str | None:
        """Return the kind of a target, None if this node cannot run it."""
        kind = self._own_kinds.get(target)
        return HTTP if kind is None and self.delivers and is_url(target) else kind

    def may_be_elsewhere(self, target: str) -> bool:
        """Return whether a node may have a target that the current code does not have.

        That is so while a node offers it. And its module may be in the handlers folder of a node that is away
        for a moment, unless newer code without it has appeared since.
        """
        return self.is_in_other_code(target) or (
            target.partition(":")[0] in self._away and not self.has_module(target)
        )

    def is_in_other_code(self, target: str) -> bool:
        """Return whether a node offers a target that the current code does not have."""
        if self.offered is None or any(t.target == target for file in self.catalog for t in file.targets):
            return False
        return target in self._own_kinds or self.elsewhere(target)

    def elsewhere(self, target: str) -> bool:
        """Return whether another node can run a target."""
        return self.offered is not None and self.offered(target)

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
            pause = entry.handler.pause
            return f"it is paused: {pause.reason}" if pause else "it is paused"
        return self.missing(entry.spec.target)

    def missing(self, target: str) -> str | None:
        """Return why a target cannot be run, None if it can."""
        if target in self._kinds or self.can_run(target):  # most are: without a call
            return None
        if is_url(target):
            return "no node sends events to URLs: start one with the role all or worker"
        file = self._files.get(target.partition(":")[0])
        broken = self.broken_files()
        if file is not None and any(each.file == file.file for each in broken):
            return self.fault_of(file.file)
        if file is None and broken:  # it may be what would import the module
            return f"no file imports its module, and {broken[0].file} does not import"
        if self.offered is not None:
            return f"no node has the target {target}"
        return f"the handlers folder has no target {target}"

    def can_run(self, target: str) -> bool:
        """Return whether a node can run a target."""
        return target in self._kinds or self.elsewhere(target) or (self.delivers and is_url(target))

    def fault_of(self, file: str) -> str:
        """Return what is wrong with a file of `broken_files`, in one phrase."""
        return fault_of(file, self.catalog)

    def broken_files(self) -> list[BrokenFile]:
        """Return the files that cannot be imported, each with its traceback."""
        return broken_files(self.catalog)

    def not_loaded(self) -> list[BrokenFile]:
        """Return what else was found in the handlers folder and is not loaded, each with the reason."""
        return not_loaded(self.catalog)


def fault_of(file: str, catalog: Catalog) -> str:
    """Return what is wrong with a file that cannot be imported, in one phrase."""
    partly = any(each.file == file and each.error is None for each in catalog)
    return f"{file} {'has targets that cannot be loaded' if partly else 'does not import'}"


def broken_files(catalog: Catalog) -> list[BrokenFile]:
    """Return the files that cannot be imported, each with its traceback."""
    return [BrokenFile(file.file, file.error) for file in catalog if file.error is not None]


def not_loaded(catalog: Catalog) -> list[BrokenFile]:
    """Return what else was found and is not loaded, each with the reason."""
    return [BrokenFile(file.file, note) for file in catalog for note in file.notes]


def code_digest(catalog: Catalog) -> str:
    """Return what names a version of handler code, the same on all machines. Empty if there is none."""
    files = [(f.file, f.digest, f.targets, f.declarations, f.error is not None) for f in catalog]
    return hashlib.sha256(msgspec.msgpack.encode(sorted(files))).hexdigest()[:12] if files else ""


def _kinds(catalog: Catalog) -> dict[str, str]:
    return {target.target: target.kind for file in catalog for target in file.targets}
