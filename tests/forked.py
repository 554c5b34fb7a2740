"""`python -m busway` without imports, most of its start: forked from a process that has made them.

What `Popen` and `run` start is otherwise the real program: a child of the tests, with the arguments, the
environment, the folder and the standard streams that it is given. What they cannot fork they start as usual,
such as another program, or one with other settings of Python.

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
from importlib import import_module
from pathlib import Path
from typing import Any

_PROGRAM = [sys.executable, "-m", "busway"]
_ROOT = Path(__file__).parents[1]
_OF_PYTHON = ("PYTHON", "LC_", "LANG", "LD_")
_SYS_CLONE = {"x86_64": 56, "aarch64": 220}.get(os.uname().machine)
_CLONE_PARENT = 0x8000
_lock = threading.Lock()
_signature = inspect.signature(subprocess.Popen._execute_child)


class Popen(subprocess.Popen[Any]):
    """As that of `subprocess`."""

    def _execute_child(self, *arguments: Any) -> None:
        given = _signature.bind(self, *arguments).arguments
        if not _can_fork(given):
            super()._execute_child(*arguments)
            return
        pipes = [given[name] for name in ("p2cread", "c2pwrite", "errwrite")]
        streams = [number if pipe == -1 else pipe for number, pipe in enumerate(pipes)]
        request = {
            "arguments": given["args"][len(_PROGRAM) :],
            "environment": dict(os.environ if given["env"] is None else given["env"]),
            "folder": os.fspath(given["cwd"] or Path.cwd()),
            "group": given.get("process_group", -1),
        }
        try:
            with _lock:
                self.pid = _ask(request, streams)
            self._child_created = True
        finally:
            self._close_pipe_fds(
                *(
                    given[name]
                    for name in ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")
                )
            )


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
        try:
            written = process.communicate(input, timeout)
        except BaseException:
            process.kill()
            raise
    done = subprocess.CompletedProcess(command, process.returncode, *written)
    if check:
        done.check_returncode()
    return done


def _can_fork(given: dict[str, Any]) -> bool:
    plain = given["preexec_fn"] is None and not given["pass_fds"] and not given["shell"]
    own = {name: value for name, value in os.environ.items() if name.startswith(_OF_PYTHON)}
    asked = os.environ if given["env"] is None else given["env"]
    same = own == {name: value for name, value in asked.items() if name.startswith(_OF_PYTHON)}
    ours = isinstance(given["args"], list) and given["args"][: len(_PROGRAM)] == _PROGRAM
    other_user = given.get("gid") or given.get("uid") or given["start_new_session"]
    return ours and plain and same and not other_user and _SYS_CLONE is not None


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
            [sys.executable, "-m", __name__, str(theirs.fileno())],
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
        message, descriptors, _, _ = socket.recv_fds(channel, 1, 4)
        if not message:
            sys.exit()
        pid = _fork()
        if pid == 0:
            channel.close()
            with os.fdopen(descriptors.pop(), encoding="utf-8") as file:
                file.seek(0)
                request: dict[str, Any] = json.load(file)
            for number, descriptor in enumerate(descriptors):
                os.dup2(descriptor, number)
            for descriptor in descriptors:
                os.close(descriptor)
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
    """Import what `busway` imports, also what it imports later."""
    import busway.gateway.cli as commands
    import busway.gateway.server  # noqa: F401
    import httpx  # noqa: F401
    import websockets.sync.client  # noqa: F401

    for module in pkgutil.iter_modules(commands.__path__, f"{commands.__name__}."):
        import_module(module.name)
    gc.collect()
    gc.freeze()


def _become(request: dict[str, Any]) -> None:
    """Be `python -m busway`."""
    if request["group"] != -1:
        os.setpgid(0, request["group"])
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    sys.path[0] = os.fspath(Path.cwd())
    sys.argv[1:] = request["arguments"]
    with contextlib.suppress(KeyError):
        del sys.modules[__name__]
    runpy.run_module("busway", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    _import_all()
    _become(_serve(socket.socket(fileno=int(sys.argv[1]))))
