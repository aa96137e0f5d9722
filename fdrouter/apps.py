"""Wiring: binds the evidence port to the log."""

from django.apps import AppConfig


class FdrouterConfig(AppConfig):
    name = "fdrouter"

    def ready(self) -> None:
        from compliance import log
        from fdrouter import (
            celery,  # noqa: F401  (tasks need their application before one is sent)
            checks,  # noqa: F401  (registers the system checks)
            evidence,
        )

        evidence.bind(log.append, log.tend, log.witness)
