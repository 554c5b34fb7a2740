"""Changes of handlers, from code or over HTTP. Each is validated, committed, then applied, one at a time."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Concatenate, ParamSpec, TypeVar

import msgspec

from busway.contract.handlers import HandlerChange, HandlerIn
from busway.contract.problems import BadField
from busway.domain.breaker import Pause
from busway.domain.event import NewEvent
from busway.domain.handler import FieldError, Handler, Spec, check_fields
from busway.domain.operations import HANDLER_PAUSED, notice
from busway.domain.run import WAITING, Error
from busway.domain.signing import new_secret, rotate
from busway.domain.weburl import is_url
from busway.gateway.dispatch.registry import RegisteredHandler, Registry
from busway.gateway.errors import Conflict, Invalid, NotFound
from busway.gateway.executors.port import Catalog, Declaration
from busway.gateway.store.port.commits import Commits, Outdated
from busway.gateway.store.port.operations import CancelWaiting, SaveHandler

log = logging.getLogger("busway.dispatch")

CANCEL_AT_ONCE = 1_000


Parameters = ParamSpec("Parameters")
Answer = TypeVar("Answer")
_Change = Callable[Concatenate["HandlerChanges", Parameters], Coroutine[Any, Any, Answer]]


def _from_current_handlers(change: _Change[Parameters, Answer]) -> _Change[Parameters, Answer]:
    """Begin with the handlers of the store, and begin again if another node changed them meanwhile.

    Return when all nodes have the change.
    """

    async def again(self: HandlerChanges, /, *args: Parameters.args, **kwargs: Parameters.kwargs) -> Answer:
        while True:
            await self._renew()
            with contextlib.suppress(Outdated):
                answer = await change(self, *args, **kwargs)
                await self._spread()
                return answer

    again.__doc__ = change.__doc__
    return again


class HandlerChanges:
    """Creates, changes and deletes handlers. A change that came between at another node starts it again.

    Args:
        commits: the way into the store; what is committed reaches the registry by way of dispatch.
        registry: the handlers in force.
        clock: microseconds since 1970.
        renew: waits until the registry has the handlers of the store.
        spread: waits until all nodes have them.
        bad_url: returns why a URL cannot be a target, None if it can.
    """

    def __init__(
        self,
        commits: Commits,
        registry: Registry,
        clock: Callable[[], int],
        renew: Callable[[], Awaitable[None]],
        spread: Callable[[], Awaitable[None]],
        bad_url: Callable[[str], str | None] = lambda _url: None,
    ) -> None:
        self._commits, self._registry, self._clock = commits, registry, clock
        self._renew, self._spread, self._bad_url = renew, spread, bad_url
        self._one_at_a_time = asyncio.Lock()
        self._reported = ("", "")

    @_from_current_handlers
    async def create(self, new: HandlerIn) -> RegisteredHandler:
        """Create a handler from the given fields.

        Raises:
            Invalid: two fields contradict each other, or the handlers folder has no such target.
            Conflict: the name is taken.
        """
        fields = {name: value for name, value in msgspec.to_builtins(new).items() if value is not None}
        _refuse([*_contradictions(fields), *self._bad_target(fields["target"])])
        async with self._one_at_a_time:
            known = self._registry.named(fields["name"])
            if known is not None and not known.handler.deleted:
                raise Conflict(
                    f"there is a handler {fields['name']!r} already: change it with PATCH, or delete it"
                )
            overrides = {k: v for k, v in fields.items() if k != "name"}
            handler = known.handler if known else Handler(id=0, name=fields["name"], revision=0)
            now = self._clock()
            return await self._save(
                msgspec.structs.replace(
                    handler,
                    revision=handler.revision + 1,
                    declared=None,
                    overrides=overrides,
                    deleted=False,
                    missing=False,
                    file_digest=self._registry.digest(fields["target"]),
                    created_at=now,
                    updated_at=now,
                    secrets=(new_secret(now),) if is_url(fields["target"]) else (),
                    pause=None,
                )
            )

    @_from_current_handlers
    async def change(self, name: str, change: HandlerChange) -> tuple[RegisteredHandler, str | None]:
        """Change fields of a handler. None removes an override.

        Returns:
            The handler, and its secret if this change made one.

        Raises:
            NotFound: there is no such handler.
            Invalid: the change renames it, a field cannot be null, or two fields contradict each other.
        """
        fields: dict[str, Any] = msgspec.to_builtins(change)
        bad = []
        if fields.pop("name", name) != name:
            bad.append(_bad("name", "a name cannot be changed: make a new handler and delete this one"))
        if fields.get("target") is not None:
            bad += self._bad_target(fields["target"])
        async with self._one_at_a_time:
            handler = self.live(name).handler
            overrides = {**handler.overrides, **fields}
            overrides = {k: v for k, v in overrides.items() if v is not None}
            in_force = {**(handler.declared or {}), **overrides}
            bad += [
                _bad(needed, f"{needed} cannot be null: this handler has no other")
                for needed in ("target", "events")
                if needed not in in_force
            ]
            _refuse([*bad, *_contradictions(in_force)])
            secrets = handler.secrets
            if is_url(in_force["target"]) and not secrets:
                secrets = (new_secret(self._clock()),)
            entry = await self._revise(
                handler,
                overrides=overrides,
                secrets=secrets,
                pause=handler.pause if fields.get("paused") is None else None,
            )
            return entry, None if secrets == handler.secrets else secrets[0].value

    @_from_current_handlers
    async def rotate_secret(self, name: str) -> RegisteredHandler:
        """Give a handler a new secret. The one before signs, too, for a while.

        Raises:
            NotFound: there is no such handler.
            Conflict: its target is no URL.
        """
        async with self._one_at_a_time:
            entry = self.live(name)
            if not is_url(entry.spec.target):
                raise Conflict(f"the handler {name!r} sends nothing that is signed: its target is no URL")
            return await self._revise(entry.handler, secrets=rotate(entry.handler.secrets, self._clock()))

    @_from_current_handlers
    async def pause_because(self, name: str, target: str, why: str) -> bool:
        """Pause a handler for a reason that the gateway found. Return whether it was not paused before.

        Nothing happens if it has another target by now.

        Raises:
            NotFound: there is no such handler.
        """
        async with self._one_at_a_time:
            entry = self.live(name)
            if entry.spec.paused or entry.spec.target != target:
                return False
            overrides = {**entry.handler.overrides, "paused": True}
            pause = Pause(by="target", reason=why, since=self._clock())
            await self._revise(entry.handler, overrides=overrides, pause=pause)
            return True

    @_from_current_handlers
    async def set_paused(self, name: str, *, paused: bool) -> RegisteredHandler:
        """Pause or resume a handler.

        Raises:
            NotFound: there is no such handler.
            Conflict: the handler is already in that state.
        """
        async with self._one_at_a_time:
            entry = self.live(name)
            if entry.spec.paused is paused and not (paused and entry.handler.pause):
                raise Conflict(f"the handler {name!r} is {'paused already' if paused else 'not paused'}")
            overrides = {**entry.handler.overrides, "paused": paused}
            return await self._revise(entry.handler, overrides=overrides, pause=None)

    async def resume_due(self) -> None:
        """Resume the handlers that their breaker has paused for a time that is over."""
        now = self._clock()
        for entry in self._registry.live():
            pause = entry.handler.pause
            if pause is not None and pause.until is not None and pause.until <= now:
                with contextlib.suppress(NotFound):
                    await self._resume(entry.handler.name, pause)

    @_from_current_handlers
    async def _resume(self, name: str, pause: Pause) -> None:
        async with self._one_at_a_time:
            handler = self.live(name).handler
            if handler.pause != pause:
                return  # somebody resumed or paused it meanwhile
            resumed = msgspec.structs.replace(
                handler, overrides={**handler.overrides, "paused": False}, updated_at=self._clock()
            )
            await self._save(resumed, by_itself=True)
            log.info("the handler %s is resumed: its breaker had paused it", name)

    @_from_current_handlers
    async def delete(self, name: str) -> None:
        """Delete a handler. Its waiting runs are cancelled; running ones finish.

        Raises:
            NotFound: there is no such handler.
            Conflict: code declares it.
        """
        async with self._one_at_a_time:
            handler = self.live(name).handler
            if (
                handler.declared is not None
                and not handler.missing
                and self._registry.can_run(handler.spec.target)
            ):
                raise Conflict(f"code declares the handler {name!r}: remove its decorator, or pause it")
            await self._save(msgspec.structs.replace(handler, deleted=True, updated_at=self._clock()))
            await self.cancel_waiting(handler)  # before the name can be reused

    async def cancel_waiting(self, handler: Handler) -> None:
        """Cancel all waiting runs of a deleted handler, in steps so that other commits can come between."""
        error = Error("HandlerDeleted", f"the handler {handler.name!r} was deleted")
        while True:
            step = CancelWaiting(handler=handler.id, error=error, now=self._clock(), limit=CANCEL_AT_ONCE)
            if not await self._commits.change(step):
                return

    async def cancel_left_over(self, counts: dict[int, dict[str, int]]) -> None:
        """Cancel runs of deleted handlers that wait again because an attempt failed after the deletion."""
        async with self._one_at_a_time:
            for handler in self._registry.deleted():
                if any(counts.get(handler.id, {}).get(state) for state in WAITING):
                    await self.cancel_waiting(handler)

    @_from_current_handlers
    async def declare(self, catalog: Catalog) -> None:
        """Update the handlers to what the code in the handlers folder declares now."""
        async with self._one_at_a_time:
            declared = {d.name for file in catalog for d in file.declarations}
            broken = {file.module for file in catalog if file.error is not None}
            for file in catalog:
                for declaration in file.declarations:
                    await self._declare(declaration, file.digest)
            for entry in self._registry.live():
                if entry.handler.name not in declared:
                    await self._undeclared(entry, broken)
            self._report()

    def _report(self) -> None:
        """Log which handlers differ from the code, unless the same was logged before."""
        handlers = [entry.handler for entry in self._registry.live()]
        orphans = ", ".join(handler.name for handler in handlers if handler.missing)
        overridden = ", ".join(
            f"{handler.name} ({', '.join(sorted(fields))})"
            for handler in handlers
            if not handler.missing and (fields := handler.overridden)
        )
        before, self._reported = self._reported, (orphans, overridden)
        if orphans and orphans != before[0]:
            log.warning(
                "no code declares these handlers, so their runs wait: %s. "
                "`busway delete --missing` deletes them",
                orphans,
            )
        if overridden and overridden != before[1]:
            log.info(
                "fields set over HTTP override the code: %s. Set a field to null to restore the code's value",
                overridden,
            )

    async def _declare(self, declaration: Declaration, file_digest: str) -> None:
        known = self._registry.named(declaration.name)
        if known is None:
            now = self._clock()
            await self._save(
                Handler(
                    id=0,
                    name=declaration.name,
                    declared=declaration.fields,
                    file_digest=file_digest,
                    created_at=now,
                    updated_at=now,
                )
            )
        elif known.handler.declared is None and not known.handler.deleted:
            log.warning("code declares %r, but a handler made over HTTP has that name", declaration.name)
        else:
            overrides = {} if known.handler.deleted else known.handler.overrides
            await self._revise(
                known.handler,
                declared=declaration.fields,
                overrides=overrides,
                file_digest=self._digest(known, declaration, overrides, file_digest),
                missing=False,
                deleted=False,
            )

    def _digest(self, known: RegisteredHandler, new: Declaration, overrides: dict[str, Any], own: str) -> str:
        target = overrides.get("target", new.fields["target"])
        if target == new.fields["target"]:
            return own
        return self._registry.digest(target) or known.handler.file_digest

    async def _undeclared(self, entry: RegisteredHandler, broken: set[str]) -> None:
        handler = entry.handler
        module = entry.spec.target.partition(":")[0]
        declaring = (handler.declared or {}).get("target", "").partition(":")[0]
        if module in broken or declaring in broken:
            return
        if broken and handler.declared is not None and not self._registry.has_module(f"{declaring}:"):
            return  # perhaps a module of the user's project: what does not import may be what imports it
        if handler.declared is not None and not handler.missing:
            if not self._registry.may_be_elsewhere(entry.spec.target):
                await self._revise(handler, missing=True)
        elif handler.declared is not None and self._registry.is_in_other_code(entry.spec.target):
            await self._revise(handler, missing=False)
        elif self._registry.digest(entry.spec.target):
            await self._revise(handler, file_digest=self._registry.digest(entry.spec.target))

    async def _revise(self, handler: Handler, **changes: Any) -> RegisteredHandler:
        new = msgspec.structs.replace(handler, **changes)
        if new == handler:
            return self.live(handler.name)
        renewed = handler.deleted or _versioned(new) != _versioned(handler)
        revision = handler.revision + 1 if renewed else handler.revision
        return await self._save(msgspec.structs.replace(new, revision=revision, updated_at=self._clock()))

    async def _save(self, handler: Handler, *, by_itself: bool = False) -> RegisteredHandler:
        """Store a handler. `by_itself`: it resumes because its pause is over."""
        if handler.pause is not None and not handler.spec.paused:
            handler = msgspec.structs.replace(handler, pause=None)
        before = self._registry.entry(handler.id)
        operation = SaveHandler(
            handler=handler,
            fields=msgspec.to_builtins(handler.spec),
            rules=self._registry.version,
            notices=self._paused_now(handler, before),
            seen=0 if before is None else before.handler.updated_at,
            resets_breaker=before is not None and not by_itself and _restarts(before.handler, handler),
        )
        number = await self._commits.change(operation)
        entry = self._registry.entry(number)
        assert entry is not None  # noqa: S101 - the registry was notified of the commit before
        return entry

    def _paused_now(self, handler: Handler, before: RegisteredHandler | None) -> list[NewEvent]:
        """Return the event that a handler is paused from now on, if another handler asks for it."""
        if before is None or before.spec.paused or not handler.spec.paused:
            return []
        if before.names(HANDLER_PAUSED):
            return []
        pause = handler.pause
        data = {
            "handler": handler.name,
            "paused_by": pause and pause.by,
            "reason": pause and pause.reason,
            "paused_until": None,
        }
        now = handler.updated_at
        event = notice(HANDLER_PAUSED, f"{handler.id}:{now}", handler.name, data, now)
        return self._registry.asked_for([event])

    def live(self, name: str) -> RegisteredHandler:
        """Return a handler that is not deleted.

        Raises:
            NotFound: there is no such handler.
        """
        entry = self._registry.named(name)
        if entry is None or entry.handler.deleted:
            raise NotFound(f"there is no handler {name!r}: GET /v1/handlers lists them")
        return entry

    def _bad_target(self, target: str) -> list[BadField]:
        if is_url(target):
            fault = self._bad_url(target)
            return [] if fault is None else [_bad("target", fault)]
        if self._registry.can_run(target):
            return []
        message = f"no file of the handlers folder defines {target!r}: GET /v1/targets lists what there is"
        return [_bad("target", message)]


def _restarts(before: Handler, handler: Handler) -> bool:
    """Return whether the breaker of a handler counts from the beginning after a change."""
    resumed = before.spec.paused and not handler.spec.paused
    return resumed or handler.deleted or before.spec.breaker != handler.spec.breaker


def _contradictions(fields: dict[str, Any]) -> list[BadField]:
    try:
        check_fields(fields)
    except FieldError as problem:
        return [_bad(problem.field, str(problem))]
    return []


def _bad(field: str, message: str) -> BadField:
    return BadField(["body", field], message)


def _refuse(fields: list[BadField]) -> None:
    if fields:
        raise Invalid.of(fields)


def _versioned(handler: Handler) -> tuple[Spec, str]:
    """Return what makes a new revision when it changes: the other fields, and the digest of the file."""
    return msgspec.structs.replace(handler.spec, paused=False, description=""), handler.file_digest
