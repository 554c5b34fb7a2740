"""`python -m busway` without imports, most of its start: forked from a process that has made them.

What `Popen` and `run` start is otherwise the real program: a child of the tests, with the arguments, the
environment, the folder and the standard streams that it is given. What they cannot fork they start as usual,
such as another program, or one with other settings of Python.

Committers come the same way: those of stores that tests open in their own process from there, the first one
of such a gateway from the gateway itself. Those that replace a dead one are started as usual.

Tests of the start itself, of what it imports, and of its memory use `subprocess`.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import functools
import gc
import inspect
import json
import os
import pkgutil
import runpy
import signal
import socket
import subprocess
import sys
import threading
import traceback
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

_PROGRAM = [sys.executable, "-m", "busway"]
_COMMITTER = [sys.executable, "-P", "-m", "busway.gateway.store.committer"]
_ROOM = 4096  # bytes for the command lines that forked processes show
_ROOT = Path(__file__).parents[1]
_OF_PYTHON = ("PYTHON", "LC_", "LANG", "LD_")
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine)
_CLONE_PARENT = 0x8000
_lock = threading.Lock()
_STARTED_WITH = {name: value for name, value in os.environ.items() if name.startswith(_OF_PYTHON)}
_signature = inspect.signature(subprocess.Popen._execute_child)
_popen = subprocess.Popen


class _Forked(subprocess.Popen[Any]):
    """Forks what can be forked."""

    def _execute_child(self, *arguments: Any) -> None:
        given = _signature.bind(self, *arguments).arguments
        if not self._can_fork(given):
            super()._execute_child(*arguments)
            return
        pipes = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)]
        request = {
            "line": [*map(os.fspath, given["args"])],
            "environment": dict(os.environ if given["env"] is None else given["env"]),
            "folder": os.fspath(given["cwd"] or Path.cwd()),
            "group": given.get("process_group", -1),
            "session": bool(given["start_new_session"]),
            "blocked": [*map(int, signal.pthread_sigmask(signal.SIG_BLOCK, ()))],
        }
        try:
            self.pid = self._fork(request, [*streams, *given["pass_fds"]])
            self._child_created = True
        finally:
            self._close_pipe_fds(
                *(
                    given[name]
                    for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
                )
            )

    def _can_fork(self, given: dict[str, Any]) -> bool:
        raise NotImplementedError

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        """Return the number of the new process. `descriptors`: its streams, and what else it is given."""
        raise NotImplementedError


class Popen(_Forked):
    """As that of `subprocess`."""

    def __exit__(self, kind: type[BaseException] | None, *more: Any) -> None:
        """Wait for the end. A test that fails does not wait for a command that goes on for ever."""
        if kind is not None:
            self.kill()
        super().__exit__(kind, *more)

    def _can_fork(self, given: dict[str, Any]) -> bool:
        return _can_fork(given)

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        with _lock:
            return _ask(request, descriptors)


class _FirstCommitter(_Forked):
    """The committer that a forked gateway starts first of all, while it has one thread."""

    def _can_fork(self, given: dict[str, Any]) -> bool:
        alone = len(list(Path("/proc/self/task").iterdir())) == 1
        return alone and _runs(given, _COMMITTER) and len(given["pass_fds"]) == 1

    def _fork(self, request: dict[str, Any], descriptors: list[int]) -> int:
        pid = os.fork()
        return pid or _be_committer(request, descriptors)


class _Subprocess:
    """The module `subprocess` for the one that starts committers. What a test replaces there holds."""

    def __init__(self, popen: type[_Forked]) -> None:
        self._forked = popen

    def __getattr__(self, name: str) -> Any:
        return self._forked if name == "Popen" and subprocess.Popen is _popen else getattr(subprocess, name)


def fork_committers(popen: type[_Forked] = Popen) -> None:
    """Have this process fork its committers."""
    from busway.gateway.store.group import process

    process.subprocess = _Subprocess(popen)  # type: ignore[assignment]


def run(
    command: list[str], *, input: str | None = None, capture_output: bool = False,  # noqa: A002
    timeout: float | None = None, check: bool = False, **more: Any,
) -> subprocess.CompletedProcess[Any]:  # fmt: skip
    """As that of `subprocess`."""
    if input is not None:
        more["stdin"] = subprocess.PIPE
    if capture_output:
        more["stdout"] = more["stderr"] = subprocess.PIPE
    with Popen(command, **more) as process:
        written = process.communicate(input, timeout)
    done = subprocess.CompletedProcess(command, process.returncode, *written)
    if check:
        done.check_returncode()
    return done


def _can_fork(given: dict[str, Any]) -> bool:
    commits = _runs(given, _COMMITTER)
    passed = len(given["pass_fds"]) == commits and bool(given["start_new_session"]) == commits
    plain = given["preexec_fn"] is None and passed and not given["shell"]
    own = dict(_STARTED_WITH)
    if commits:  # it finds our package with it
        own["PYTHONPATH"] = os.pathsep.join([str(_ROOT / "app"), *filter(None, [own.get("PYTHONPATH")])])
    asked = os.environ if given["env"] is None else given["env"]
    same = own == {name: value for name, value in asked.items() if name.startswith(_OF_PYTHON)}
    other_user = given.get("gid") or given.get("uid")
    ours = commits or _runs(given, _PROGRAM)
    return ours and plain and same and not other_user and _SYS_CLONE is not None


def _runs(given: dict[str, Any], program: list[str]) -> bool:
    return isinstance(given["args"], list | tuple) and [*given["args"][: len(program)]] == program


def _ask(request: dict[str, Any], streams: list[int]) -> int:
    """Have a process forked, and return its number."""
    written = os.memfd_create("request")
    try:
        with os.fdopen(os.dup(written), "w", encoding="utf-8") as file:
            json.dump(request, file)
        channel = _server()
        socket.send_fds(channel, [b"."], [*streams, written])
        pid = int(channel.recv(20))
    finally:
        os.close(written)
    if pid < 0:
        raise OSError(-pid, os.strerror(-pid))
    return pid


@functools.cache
def _server() -> socket.socket:
    """Start the process that the others are forked from. It ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-m", __name__, str(theirs.fileno()), " " * _ROOM],
            stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, pass_fds=[theirs.fileno()], cwd=_ROOT,
        )  # fmt: skip

    def end() -> None:
        ours.close()
        process.wait()

    atexit.register(end)
    return ours


def _serve(channel: socket.socket) -> dict[str, Any]:
    """Fork a process for each request. Return in each of them, with its request."""
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, 1, 5)
        if not message:
            sys.exit()
        pid = _fork()
        if pid == 0:
            channel.close()
            with os.fdopen(descriptors.pop(), encoding="utf-8") as file:
                file.seek(0)
                request: dict[str, Any] = json.load(file)
            passed = descriptors[3:]
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
                os.close(descriptor)
            if passed:
                request["line"][-1] = str(passed[0])
            return request
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(b"%d" % pid)


def _fork() -> int:
    """Fork a child of this process' parent. Return its number here and 0 there, or the negative error."""
    assert _SYS_CLONE is not None
    system, python = ctypes.PyDLL(None, use_errno=True), ctypes.pythonapi
    python.PyOS_BeforeFork()
    pid = system.syscall(_SYS_CLONE, _CLONE_PARENT | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        python.PyOS_AfterFork_Child()
        return 0
    error = ctypes.get_errno()
    python.PyOS_AfterFork_Parent()
    return int(pid) if pid > 0 else -error


def _import_all() -> None:
    """Import what `busway` and the committer import, also what they import later."""
    gc.disable()
    import alembic.command  # noqa: F401
    import busway.gateway.cli as commands
    import busway.gateway.nodes.notifications.nats
    import busway.gateway.server
    import busway.gateway.store.postgres.facade
    import busway.gateway.store.postgres.write_connection
    import busway.gateway.store.sqlite.write_connection  # noqa: F401
    import httpx  # noqa: F401
    import websockets.sync.client  # noqa: F401

    for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        import_module(module.name)
    gc.freeze()
    gc.enable()


def _become(request: dict[str, Any]) -> NoReturn:
    """Be the program of the request."""
    if request["session"]:
        os.setsid()
    elif request["group"] != -1:
        os.setpgid(0, request["group"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.pthread_sigmask(signal.SIG_SETMASK, request["blocked"])  # not those of the process forked from
    _show(request["line"])
    module = request["line"].index("-m") + 1
    sys.path[0] = os.fspath(Path.cwd())
    sys.argv[1:] = request["line"][module + 1 :]
    with contextlib.suppress(KeyError):
        del sys.modules[__name__]
    if request["line"][: len(_PROGRAM)] == _PROGRAM:
        fork_committers(_FirstCommitter)
    _run(request["line"][module])


def _run(module: str) -> NoReturn:
    """Run a module as the program, and end without freeing all that was imported, which takes long."""
    status = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        if not isinstance(end.code, int | None):
            raise
        status = end.code or 0
    threading._shutdown()
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


def _be_committer(request: dict[str, Any], descriptors: list[int]) -> NoReturn:
    """Be the committer of the gateway that was forked, and never return to what the gateway was doing."""
    try:
        for number, descriptor in enumerate(descriptors[:3]):
            os.dup2(descriptor, number)
        kept = descriptors[3]
        os.closerange(3, kept)
        os.closerange(kept + 1, os.sysconf("SC_OPEN_MAX"))
        gc.enable()  # which the gateway disabled
        _become(request)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(1)


def _show(line: list[str]) -> None:
    """Show this command line in /proc, where tests look for it. It is read from where that of Python was."""
    fields = Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    start, end = int(fields[45]), int(fields[46])
    shown = b"\0".join(map(os.fsencode, line))[: end - start - 1]
    ctypes.memset(start, 0, end - start)
    ctypes.memmove(start, shown, len(shown))


if __name__ == "__main__":
    _import_all()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
