"""What admission costs: single events a second with a key, a token and limits, beside an open gateway."""

from __future__ import annotations

import contextlib
import secrets
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import jwt
import psutil

from benchmarks import running
from benchmarks.load import CONNECTIONS, wrk
from benchmarks.row import OURS, Comparison, Once, Reading, Row, Side

SECONDS = 8.0
Prepare = Callable[[Path], tuple[list[str], str]]
"""Prepares the folder of a gateway. Returns options for it, and the key or token of its clients."""


def nobody(_: Path) -> tuple[list[str], str]:
    """Let the gateway be open."""
    return [], ""


def key(place: Path) -> tuple[list[str], str]:
    """Create an API key with all rights in the database."""
    command = [sys.executable, "-m", "busway", "keys", "create", "bench", "--create"]
    command += [f"--database-url=sqlite:///{place / 'bench.db'}"]
    return [], subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def limits(place: Path) -> tuple[list[str], str]:
    """Create a key, and limit requests of it and of every address, those of loopback too."""
    options, text = key(place)
    rates = ["--key-rate=1000000/s", "--address-rate=1000000/s", "--unlimited-address=192.0.2.1"]
    return [*options, *rates], text


def token(place: Path) -> tuple[list[str], str]:
    """Sign a token with a shared secret. How it is signed does not matter: it is checked once."""
    secret, now = secrets.token_hex(32), int(time.time())
    (place / "secret").write_text(secret)
    claims = {
        "iss": "https://issuer.example",
        "aud": "busway",
        "sub": "bench",
        "iat": now,
        "exp": now + 86_400,
    }
    text = jwt.encode({**claims, "scope": "publish", "roles": ["bench"] * 50}, secret, algorithm="HS256")
    options = [f"--jwt-issuer={claims['iss']}", "--jwt-audience=busway"]
    return [*options, f"--jwt-secret-file={place / 'secret'}"], text


@contextlib.contextmanager
def busway(prepare: Prepare) -> Iterator[Once]:
    with running.folder() as place:
        options, text = prepare(place)
        headers = {"Authorization": f"Bearer {text}"} if text else {}
        with running.busway(*options, place=place) as gateway:
            url = gateway.url + "/v1/events"
            process = psutil.Process(gateway.process.pid)
            wrk(url, 2, headers=headers)

            def once(effort: float) -> Reading:
                before = sum(process.cpu_times()[:2])
                reading = wrk(url, SECONDS * effort, headers=headers)
                spent = sum(process.cpu_times()[:2]) - before
                return {**reading, "gateway_us": spent / max(1, reading["requests"]) * 1e6}

            yield once


ROW = Row(
    name="access",
    title=f"single events a second with a key, with a token and with limits, {CONNECTIONS} connections",
    sides=(
        Side(OURS, "an open gateway; synced, process pool, no subscriber", lambda: busway(nobody)),
        Side("busway_key", "the same, each request with an API key", lambda: busway(key)),
        Side("busway_token", "the same, each request with a token of 900 bytes", lambda: busway(token)),
        Side(
            "busway_limits",
            "the same, with an API key, and rates of key and address that are never reached",
            lambda: busway(limits),
        ),
    ),
    comparisons=(
        Comparison("requests_per_s", (OURS,), must=0.95, aim=1, side="busway_key"),
        Comparison("requests_per_s", (OURS,), must=0.95, aim=1, side="busway_token"),
        Comparison("requests_per_s", (OURS,), must=0.95, aim=1, side="busway_limits"),
    ),
)
