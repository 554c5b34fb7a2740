"""Real reverse proxies in front of gateways."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from .service import PATIENCE, clean_environment, until


def nginx_for(folder: Path, site: str, port: int) -> list[str]:
    """Return the command of an nginx that has this site, on another port than 80."""
    (folder / "busway.conf").write_text(site.replace("listen 80;", f"listen 127.0.0.1:{port};"))
    temporary = "".join(f"{name}_temp_path {folder}/{name};" for name in
                        ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))  # fmt: skip
    main = (
        f"{'user root; ' * (os.geteuid() == 0)}daemon off; pid {folder}/pid; error_log stderr; events {{}}\n"
        f"http {{ access_log off; {temporary} include {folder}/busway.conf; }}\n"
    )
    (folder / "nginx.conf").write_text(main)
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", "stderr"]


@contextlib.contextmanager
def running(folder: Path, port: int, command: list[str]) -> Iterator[None]:
    """Run a proxy that listens on this port."""
    name, *arguments = command
    # Debian's nginx is in /usr/sbin, which the PATH of users lacks.
    program = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if program is None and os.environ.get("CI") != "true":
        pytest.skip(f"no {name} on this machine")
    assert program, f"CI has no {name}: .ci/run installs it"
    environment = {**clean_environment(), "HOME": str(folder), "XDG_DATA_HOME": str(folder)}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen([program, *arguments], stderr=log, stdout=log, env=environment)
    try:
        until(lambda: _answers(port) or process.poll() is not None, "the proxy")
        assert process.poll() is None, (folder / "log").read_text()
        yield
    finally:
        process.terminate()
        process.wait(PATIENCE)


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1).close()
    except OSError:
        return False
    return True
