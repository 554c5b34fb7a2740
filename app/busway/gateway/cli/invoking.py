"""Run one handler once in this terminal. It needs no gateway and stores nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import pdb
import sys
from collections.abc import Coroutine
from contextlib import nullcontext, redirect_stdout
from contextvars import Context
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from busway import testing
from busway.domain.callables import ASYNC
from busway.domain.event_fields import MAX_EVENT_BYTES
from busway.domain.filter import View, compile_filter
from busway.domain.handler import Spec, spec_of
from busway.domain.jsonvalue import MAX_RESULT_BYTES
from busway.domain.pattern import matcher
from busway.event import Event
from busway.gateway.cli.results import described
from busway.gateway.errors import BadSettings
from busway.gateway.executors.python.child import secret_files
from busway.gateway.executors.python.child.failure import delay_of, describe, is_final
from busway.gateway.executors.python.child.lifecycle import SetupFailed, prepare, teardown
from busway.gateway.executors.python.child.loading import LoadedFolder, LoadedTarget, load
from busway.gateway.executors.python.wire.protocol import Boot

_OURS = tuple(str(Path(each.__file__ or "").parent) for each in (testing, asyncio))


class Printed(testing.Recording):
    """The port of a context that prints what the handler reports, at once.

    Partial results and published events go to standard output, log lines to standard error. With `json_lines`
    what the handler itself prints goes to standard error, too.
    """

    def __init__(self, handler: str, parent: Event, *, json_lines: bool) -> None:
        super().__init__(handler, parent, cancelled=False)
        self.json_lines = json_lines
        self._output = sys.stdout

    def partial(self, value: Any) -> None:
        """Print a partial result."""
        self.show("partial", value)

    def publish(
        self, type_: str, data: bytes | None, binary: bool, attributes: dict[str, str | int | bool]
    ) -> None:
        """Print an event."""
        super().publish(type_, data, binary, attributes)
        event = self.published[-1]
        self.show("published", event.data, f"{event.type}  ", type=event.type)

    def note(self, text: str) -> None:
        """Print log lines."""
        sys.stderr.write(text)

    def show(self, kind: str, data: Any, before: str = "", **members: Any) -> None:
        """Print one line."""
        if self.json_lines:
            body = {"data_base64": data} if isinstance(data, bytes) else {"data": data}
            text = msgspec.json.encode({"kind": kind, **members, **body}).decode()
        else:
            shown = f"{len(data)} bytes" if isinstance(data, bytes) else json.dumps(data, ensure_ascii=False)
            text = f"{kind:<9}  {before}{shown}"
        self._output.write(f"{text}\n")
        self._output.flush()


class Chosen(NamedTuple):
    """The handler to run: its name, its fields, and the function."""

    name: str
    spec: Spec
    target: LoadedTarget


def run_once(
    name: str,
    attributes: dict[str, Any],
    data: Any,
    *,
    folder: Path,
    app_dir: Path,
    secrets: Path | None = None,
    attempt: int = 1,
    debug: bool = False,
    json_lines: bool = False,
) -> bool:
    """Run a handler, print what it produces, and return whether it succeeded.

    Args:
        name: a handler that the folder declares, or a target, `module:function`.
        attributes: attributes of the event. `type` defaults to the first pattern of the handler, with `x` for
            its stars.
        data: the event's payload.
        folder: the handlers folder.
        app_dir: the root of the user's project.
        secrets: the file or folder with secrets. Those of variables are there in any case.
        attempt: the number of the attempt.
        debug: after an exception, start the debugger where it was raised.
        json_lines: print one JSON object per line.

    Raises:
        BadSettings: there is no such handler, or the event is invalid.
    """
    secret_files.open_secrets(b"" if secrets is None else bytes(secrets.absolute()))
    roots = [os.fsencode(path.resolve()) for path in (folder, app_dir)]
    loaded = load(Boot(roots[0], {}, MAX_RESULT_BYTES, MAX_EVENT_BYTES, roots[1]))
    chosen = _choose(name, loaded, folder)
    event = _event(chosen.spec, attributes, data)
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", level=logging.INFO)
    port = Printed(chosen.name, event, json_lines=json_lines)
    port.secrets = secret_files.secrets()
    output = redirect_stdout(sys.stderr) if json_lines else nullcontext()
    with asyncio.Runner() as runner, output:
        try:
            value = _run(chosen, event, attempt, port, runner)
        except (Exception, SystemExit) as problem:
            _report(problem, chosen.spec, attempt, port)
            if debug:
                pdb.post_mortem(problem.__traceback__)
            return False
    port.show("succeeded", value)
    return True


def _choose(name: str, loaded: LoadedFolder, folder: Path) -> Chosen:
    declared = {each.name: each.fields for file in loaded.files for each in file.declarations}
    if name in declared:
        spec = spec_of(declared[name])
        return Chosen(name, spec, loaded.entries[spec.target])
    if name in loaded.entries:
        return Chosen(name.partition(":")[2], Spec(target=name, events=("**",)), loaded.entries[name])
    errors = "".join(
        f"\n{file.file}: {error}" for file in loaded.files for error in (file.error, *file.notes) if error
    )
    found = ", ".join(sorted(declared)) or "none"
    raise BadSettings(
        f"the folder {str(folder)!r} has no handler and no target {name!r}. Its handlers: {found}{errors}"
    )


def _event(spec: Spec, attributes: dict[str, Any], data: Any) -> Event:
    default = spec.events[0].replace("**", "x").replace("*", "x")
    try:
        event = testing.event(attributes.pop("type", None) or default, data, **attributes)
    except (TypeError, ValueError) as problem:
        raise BadSettings(f"the event is invalid: {problem}") from None
    if not matcher(spec.events)(event.type):
        _note(f"a gateway would not run this handler: its patterns do not match the type {event.type!r}")
    elif spec.filter and not compile_filter(spec.filter)(View(event._stored)):  # noqa: SLF001 - a friend
        _note("a gateway would not run this handler: its filter does not select this event")
    return event


def _run(chosen: Chosen, event: Event, attempt: int, port: Printed, runner: asyncio.Runner) -> Any:
    def wait(coroutine: Coroutine[Any, Any, Any], context: Context) -> Any:
        return runner.run(coroutine, context=context)

    module, function = chosen.target.module, chosen.target.function
    ctx = testing.RecordingContext(port, run=1, attempt=attempt, handler=chosen.name, revision=1)
    try:
        prepare(module, None, wait)
        context = module.context.copy()
        if chosen.target.kind in ASYNC:
            return wait(testing.run_async(function, event, ctx), context)
        return context.run(testing.run, function, event, ctx)
    finally:
        teardown([module], wait)


def _report(problem: BaseException, spec: Spec, attempt: int, port: Printed) -> None:
    """Print why the attempt failed, and what a gateway would do."""
    if isinstance(problem, SetupFailed) and problem.__cause__ is not None:
        _note(str(problem))
        problem = problem.__cause__
    error = describe(_without_ours(problem))
    dead = is_final(problem) or attempt >= spec.max_attempts
    kind = "dead" if dead else "failed"
    if port.json_lines:
        port.show(kind, None, error=msgspec.structs.asdict(error))
    else:
        sys.stderr.write(error.traceback or "")
        sys.stdout.write(f"{kind:<9}  {described(error.type, error.message)}\n")
        sys.stdout.flush()
    if not dead:
        delay = delay_of(problem)
        pause = spec.backoff.delay(attempt, 0.5) if delay is None else delay
        _note(f"a gateway would try again in {pause:g} s")
    if port.published:
        _note(f"a gateway would not store the {len(port.published)} published events")


def _without_ours(problem: BaseException) -> BaseException:
    """Remove the frames of Busway and of the event loop above those of the handler."""
    frames = problem.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    return problem.with_traceback(frames) if frames is not None else problem


def _note(text: str) -> None:
    sys.stderr.write(f"busway: {text}\n")
