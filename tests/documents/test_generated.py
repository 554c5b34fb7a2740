"""Requests that Schemathesis generates from the OpenAPI document, against a running gateway."""

from __future__ import annotations

import secrets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.service import Service, clean_environment

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "unsupported_method",
    "allow_header_conformance",
)
NDJSON = """
import schemathesis

@schemathesis.serializer("application/x-ndjson")
def lines(ctx, value):
    return value.encode() if isinstance(value, str) else b""
"""
HANDLER = '''
from busway import handler

@handler("order.created")
def invoice(event):
    """Make an invoice."""
    return event.data
'''


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    made = Service(tmp_path, workers=1)
    made.write("shop.py", HANDLER)
    try:
        yield made.start()
    finally:
        made.close()


@pytest.mark.long
def test_no_generated_request_gets_an_answer_that_the_document_does_not_have(service: Service) -> None:
    """No 5xx, no other status, no answer that breaks its schema. The stream of events has no end."""
    service.publish("order.created", {"n": 1})
    seed = secrets.randbelow(2**32)
    command = [
        *(sys.executable, "-m", "schemathesis.cli", "run", f"{service.url}/openapi.json"),
        *(f"--seed={seed}", "--max-examples=20", "--phases=examples,fuzzing,stateful", "--workers=2"),
        *(f"--checks={','.join(CHECKS)}", "--exclude-path=/v1/subscribe/sse", "--request-timeout=120"),
        *("--suppress-health-check=all", "--warnings=off", "--no-color"),
    ]
    (service.folder / "serializing.py").write_text(NDJSON)
    environment = {**clean_environment(), "SCHEMATHESIS_HOOKS": "serializing"}
    done = subprocess.run(
        command, cwd=service.folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, f"seed {seed}\n{done.stdout[-20_000:]}\n{done.stderr[-2_000:]}"
    paths = service.ok("GET", "/openapi.json")["paths"]
    operations = sum(len(methods) for path, methods in paths.items() if path != "/v1/subscribe/sse")
    assert operations > 30
    assert f"Tested: {operations}" in done.stdout
    assert "Traceback" not in service.log.read_text(encoding="utf-8")
