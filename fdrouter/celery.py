"""The Celery application. Queues and retry policy: docs/queues.md."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "fdrouter.settings")

app = Celery("fdrouter")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
app.set_default()  # also for the threads of a web process
