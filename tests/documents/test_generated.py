"""Requests that Schemathesis generates from the OpenAPI document, against a running gateway."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from busway.gateway.access.keys import declared_id, key_text, new_secret

from tests.e2e.service import Service, clean_environment

LEFT_OUT = {
    "positive_data_acceptance": "what is named need not exist, and states forbid actions",
    "negative_data_rejection": "queries of several values, and media types that are not JSON",
}
LEFT_OUT_OPEN = {"ignored_auth": "an open gateway needs none"}
"""The checks that are left out, and why."""
EXAMPLES = max(10, int(os.environ.get("FUZZ_SECONDS", "0")))
"""How many requests for each operation, with a key."""
SHARE = {"open": 2, "with a key": 1, "without a key": 4}
NDJSON = """
import schemathesis

@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    return value.encode() if isinstance(value, str) else b""

@schemathesis.hook
def map_query(ctx, query):
    if query and ctx.operation.method.lower() == "delete":
        query.pop("dry_run", None)  # what it would delete is still there
    return query
"""
HANDLER = '''
from busway import handler

@handler("order.created")
def invoice(event):
    """Make an invoice."""
    return event.data
'''


@pytest.fixture
def service(tmp_path: Path, access: str) -> Iterator[Service]:
    options: dict[str, Any] = {} if access == "open" else {"keys_file": tmp_path / "keys.toml"}
    made = Service(tmp_path, workers=1, **options)
    made.write("shop.py", HANDLER)
    if access != "open":  # a key that no request can revoke
        secret, digest = new_secret()
        made.key = key_text(declared_id(digest), secret)
        entry = f'[keys.me]\ndigest = "sha256:{digest.hex()}"\nscopes = ["admin"]\n'
        (tmp_path / "keys.toml").write_text(entry)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.mark.long
@pytest.mark.parametrize("access", ["open", "with a key", "without a key"])
def test_no_generated_request_gets_an_answer_that_the_document_does_not_have(
    service: Service, access: str
) -> None:
    """No 5xx, no other status, no answer that breaks its schema. The stream of events has no end.

    `make fuzz` sends more requests.
    """
    service.publish("order.created", {"n": 1})
    seed = secrets.randbelow(2**32)
    examples, left_out = EXAMPLES // SHARE[access], [*LEFT_OUT]
    if access == "open":
        left_out += LEFT_OUT_OPEN
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
        *(f"--seed={seed}", f"--max-examples={examples}", "--phases=examples,fuzzing,stateful"),
        *("--checks=all", f"--exclude-checks={','.join(left_out)}", "--workers=2"),
        *("--request-timeout=120", "--max-response-time=120"),  # the machine may be busy
        *("--suppress-health-check=all", "--warnings=off", "--no-color", "--exclude-path=/v1/subscribe/sse"),
        *([f"--header=Authorization: Bearer {service.key}"] if access == "with a key" else []),
        *(["--exclude-operation-id=create_key"] if access == "open" else []),  # with a key it is not open
    ]
    (service.folder / "serializing.py").write_text(NDJSON)
    environment = {**clean_environment(), "SCHEMATHESIS_HOOKS": "serializing"}
    done = subprocess.run(
        command, cwd=service.folder, env=environment, capture_output=True, text=True, check=False
    )
    print(done.stdout[-2_000:])
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-20_000:]}\n{done.stderr[-2_000:]}"
    paths = service.ok("GET", "/openapi.json")["paths"]
    operations = sum(len(methods) for path, methods in paths.items() if path != "/v1/subscribe/sse")
    operations -= access == "open"
    assert operations > 30
    assert f"Tested: {operations}" in done.stdout
    assert "Traceback" not in service.log.read_text(encoding="utf-8")
