"""Whether the environment asks for traces. This module loads nothing of OpenTelemetry."""

from __future__ import annotations

import os
from collections.abc import Mapping
from importlib.util import find_spec
from urllib.parse import urlsplit

from busway.gateway.errors import BadSettings

REQUEST_HEADERS = frozenset({b"traceparent", b"tracestate"})
ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", ENDPOINT)
_PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
_PACKAGES = ("opentelemetry.sdk.trace", "opentelemetry.exporter.otlp.proto.http")
_NUMBERS = ("OTEL_BSP_MAX_QUEUE_SIZE", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "OTEL_BSP_SCHEDULE_DELAY")


def wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether the environment asks for traces."""
    off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    return (
        not off
        and environment.get("OTEL_TRACES_EXPORTER", "otlp").strip() != "none"
        and any(environment.get(name, "").strip() for name in _ENDPOINTS)
    )


def check(environment: Mapping[str, str] = os.environ) -> None:
    """Check that traces can be sent, if the environment asks for them.

    Raises:
        BadSettings: they cannot. The message is one line and names the variable.
    """
    if not wanted(environment):
        return
    name = next(name for name in _ENDPOINTS if environment.get(name, "").strip())
    if not all(map(_is_installed, _PACKAGES)):
        raise BadSettings(
            f"{name}: traces need OpenTelemetry, which is not installed: "
            "pip install 'busway[otel]', or remove the variable"
        )
    endpoint = urlsplit(environment[name].strip())
    if endpoint.scheme not in {"http", "https"} or not endpoint.hostname:
        raise BadSettings(f"{name}: must be http://HOST:PORT or https://HOST:PORT of an OTLP receiver")
    for protocol in _PROTOCOLS:
        if environment.get(protocol, "http/protobuf").strip() not in {"", "http/protobuf"}:
            raise BadSettings(f"{protocol}: must be http/protobuf, not {environment[protocol]!r}")
    for number in _NUMBERS:
        text = environment.get(number, "").strip()
        if text and not (text.isascii() and text.isdigit() and int(text)):
            raise BadSettings(f"{number}: must be a number from 1, not {text!r}")


def _is_installed(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except ModuleNotFoundError:
        return False
