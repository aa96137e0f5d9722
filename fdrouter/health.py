"""Liveness and readiness. ``/health`` says that the process runs; ``/ready`` asks each dependency."""

from __future__ import annotations

import logging
from collections.abc import Callable
from http import HTTPStatus

import redis
from django.conf import settings
from django.db import Error as DatabaseError
from django.db import connection
from django.http import HttpRequest, JsonResponse

log = logging.getLogger(__name__)


def live(request: HttpRequest) -> JsonResponse:
    """200 as long as the process answers."""
    return JsonResponse({"status": "ok", "role": settings.ROLE})


def _database() -> str:
    with connection.cursor() as cursor:
        cursor.execute("SELECT 1")
    return "ok"


def _redis() -> str:
    with redis.Redis.from_url(settings.REDIS_URL, socket_connect_timeout=2, socket_timeout=2) as client:
        client.ping()
    return "ok"


def _nodes() -> str:
    from federation import selectors

    up = selectors.count_nodes_up()
    return "ok" if up else "no node is up"


def _engine() -> str:
    from federation.node import health

    return health.engine_state()


def _checks() -> dict[str, Callable[[], str]]:
    found: dict[str, Callable[[], str]] = {"database": _database}
    if settings.IS_COORDINATOR:
        found |= {"redis": _redis, "nodes": _nodes}
    if settings.ROLE == "node":
        found |= {"engine": _engine}
    return found


def ready(request: HttpRequest) -> JsonResponse:
    """200 when every dependency answers, otherwise 503 with the state of each."""
    states = {}
    for name, check in _checks().items():
        try:
            states[name] = check()
        except (DatabaseError, redis.RedisError, OSError) as error:
            log.warning("dependency not ready", extra={"part": name, "reason": type(error).__name__})
            states[name] = "unreachable"
    good = all(state == "ok" for state in states.values())
    return JsonResponse(
        {"status": "ok" if good else "unavailable", "checks": states},
        status=HTTPStatus.OK if good else HTTPStatus.SERVICE_UNAVAILABLE,
    )
