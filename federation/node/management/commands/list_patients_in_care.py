"""Lists the patients in each department's care, for the coordinator's picker: pseudonyms and coarse labels only."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand

from federation.node import search
from federation.node.models import Department


class Command(BaseCommand):
    help = "Prints JSON for import_care_relations."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--limit", type=int, default=40, help="patients a department")

    def handle(self, *args: Any, **options: Any) -> None:
        departments = {
            department.value: [
                {"reference": patient.reference, "label": patient.label}
                for patient in search.patients_in_care(department.value, limit=options["limit"])
            ]
            for department in Department
        }
        self.stdout.write(json.dumps({"hospital": settings.HOSPITAL_ID, "departments": departments}))
