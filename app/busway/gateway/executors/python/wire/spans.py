"""What gateway and workers need to send spans. This module is imported only if there are traces."""

from __future__ import annotations

import logging
import os
from typing import Any

from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter

from busway.version import __version__

_QUEUE, _BATCH = ("OTEL_BSP_MAX_QUEUE_SIZE", 2048), ("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", 512)


def room() -> int:
    """Return how many spans a process keeps until they are sent."""
    return _number(*_QUEUE)


def batches(exporter: SpanExporter) -> BatchSpanProcessor:
    """Return what sends spans in batches, in a thread of its own."""
    size = min(_number(*_BATCH), room())
    return BatchSpanProcessor(exporter, max_queue_size=room(), max_export_batch_size=size)


def _number(name: str, default: int) -> int:
    text = os.environ.get(name, "").strip()
    return int(text) if text.isdigit() and int(text) else default


def quiet() -> None:
    """Keep OpenTelemetry's own lines about a collector out of the log: they come for each batch."""
    logging.getLogger("opentelemetry").setLevel(logging.CRITICAL)


def resource(node: str) -> Resource:
    """Return the resource of this process. `OTEL_SERVICE_NAME` and `OTEL_RESOURCE_ATTRIBUTES` win."""
    ours: dict[str, Any] = {
        "service.name": "busway",
        "service.version": __version__,
        "service.instance.id": node,
        "process.pid": os.getpid(),
        "busway.node": node,
    }
    chosen = dict(Resource.create({}).attributes)
    if str(chosen.get("service.name", "")).startswith("unknown_service"):
        del chosen["service.name"]
    if "service.instance.id=" not in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", ""):
        chosen.pop("service.instance.id", None)  # random
    return Resource({**ours, **chosen})
