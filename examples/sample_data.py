"""Creates a database with sample data for the example handlers. `make run` does this before its first start.

The pages at /docs refer to this data:

- event 1 and run 1: a parcel whose run waits for its next attempt until tomorrow
- an order that failed, because the shop does not sell pianos
- an order that started a chain of three handlers
- `spare`: a handler that was created over HTTP and can be deleted
- `nightly-report`: a schedule whose events start no handler, and `spare`: one that can be deleted
- `hook`: a handler with a URL as its target, which gets no event
- `import-2026-01-31`: the producer of an upload with one line
- `billing`: a durable subscription
- replay 1: a shadow replay of another parcel, whose run waits until tomorrow, so the replay is running
"""

import os
import subprocess
import sys
from pathlib import Path

import httpx
from busway import SyncClient

HANDLERS = Path(__file__).with_name("handlers")
SPARE = {
    "name": "spare",
    "target": "orders:price",
    "events": ["order.imported"],
    "description": "Created over HTTP, so it can be deleted over HTTP.",
}
HOOK = {
    "name": "hook",
    "target": "https://example.com/hooks/orders",
    "events": ["order.exported"],
    "description": "Sends orders to another system. Nothing publishes this type here.",
}
SCHEDULES = [
    {
        "name": "nightly-report",
        "cron": "0 3 * * *",
        "timezone": "Europe/Berlin",
        "event": {"type": "report.wanted"},
    },
    {"name": "spare", "every": "1d", "event": {"type": "order.imported"}, "paused": True},
]
IMPORT = {"Content-Type": "application/x-ndjson", "Producer-Id": "import-2026-01-31"}


def main(database: str) -> int:
    """Start a gateway on a new database, publish the events, stop it, and give the database its name."""
    new = f"{database}.new"
    remove(new)
    command = [
        *(sys.executable, "-m", "busway", "serve", f"--database-url=sqlite:///{new}"),
        *(f"--handlers={HANDLERS}", "--host=127.0.0.1", "--port=0", "--pool=process", "--workers=1"),
    ]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("BUSWAY_")}
    with subprocess.Popen(  # noqa: S603 - our own program
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as gateway:
        try:
            started = gateway.stdout.readline().split() if gateway.stdout else []
            if started:
                fill(started[1])
        finally:
            gateway.terminate()
    if gateway.returncode == 0:
        Path(new).rename(database)
    remove(new)
    return gateway.returncode


def remove(database: str) -> None:
    """Remove a database and the files beside it."""
    for end in ("", "-wal", "-shm", ".lock"):
        Path(database + end).unlink(missing_ok=True)


def fill(url: str) -> None:
    """Publish the sample events and wait for their results."""
    with SyncClient(url) as client:
        with client.subscribe("parcel.sent", kinds=["failed"]).open() as failures:
            client.publish("parcel.sent", {"to": "Svalbard"})
            next(failures)
        client.wait("order.created", {"item": "piano", "quantity": 1})
        client.wait("order.created", {"item": "book", "quantity": 2})
        client.subscribe("order.**", durable="billing", after="earliest").open().close()
        parcel = client.publish("parcel.sent", {"to": "Svalbard"})
    replay = {"after": parcel.seq - 1, "shadow": True}
    line = b'{"type": "order.imported", "data": {"item": "book", "quantity": 3}}\n'
    httpx.post(f"{url}/v1/events", content=line, headers=IMPORT, trust_env=False).raise_for_status()
    for path, body in (
        ("handlers", SPARE),
        ("handlers", HOOK),
        *(("schedules", schedule) for schedule in SCHEDULES),
        ("handlers/book_carrier/replay", replay),
    ):
        httpx.post(f"{url}/v1/{path}", json=body, trust_env=False).raise_for_status()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
