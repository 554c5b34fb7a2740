"""Composes the executors of a node, as its settings say."""

from __future__ import annotations

import os
from collections.abc import Callable

from busway.gateway import variables
from busway.gateway.dispatch.changes import HandlerChanges
from busway.gateway.dispatch.pausing import Pauses
from busway.gateway.dispatch.registry import Registry
from busway.gateway.executors.http.deliveries import Deliveries
from busway.gateway.executors.http.request import build, build_traced
from busway.gateway.executors.none import NoWorkers
from busway.gateway.executors.port import Workers
from busway.gateway.executors.python.host.environment import handler_environment
from busway.gateway.executors.python.host.supervisor import Supervisor
from busway.gateway.executors.together import Executors
from busway.gateway.settings import Settings
from busway.gateway.store.port.database import is_postgres


def make_executors(
    settings: Settings,
    registry: Registry,
    changes: HandlerChanges,
    epoch: Callable[[], str],
) -> Workers:
    """Return what runs attempts on this node.

    Args:
        settings: the settings.
        registry: the handlers.
        changes: changes them.
        epoch: returns the name of the database.
    """
    if not settings.has_workers:
        return NoWorkers()
    deliveries = Deliveries(
        settings.targets,
        most=settings.max_deliveries,
        max_result_bytes=settings.max_result_bytes,
        secrets=registry.secrets,
        epoch=epoch,
        gone=Pauses(changes).pause,
        build=build_traced if settings.traces else build,
    )
    return Executors(_make_workers(settings), deliveries)


def _make_workers(settings: Settings) -> Workers:
    return Supervisor(
        handlers=settings.handlers,
        app_dir=settings.app_dir,
        processes=settings.workers,
        threads=settings.threads,
        max_result_bytes=settings.max_result_bytes,
        max_event_bytes=settings.max_event_bytes,
        default_pool=settings.pool,
        reload=settings.reload,
        environment=handler_environment(
            {**os.environ, **variables.handler_secrets()},
            user=settings.worker_user,
            postgres=is_postgres(settings.database_url),
        ),
        secrets=settings.secrets_file,
        limits=settings.worker_limits,
        traces=settings.node_name if settings.traces else "",
    )
