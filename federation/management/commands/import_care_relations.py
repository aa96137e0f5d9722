"""Takes over which patients are in whose care, as a hospital's node lists them (``list_patients_in_care``)."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from accounts.models import CareRelation, Department


class Command(BaseCommand):
    help = "Reads the JSON of list_patients_in_care from a file, or from standard input with '-'."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("file")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            source = options["file"]
            text = sys.stdin.read() if source == "-" else Path(source).read_text(encoding="utf-8")
            document = json.loads(text)
            hospital, departments = document["hospital"], dict(document["departments"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CommandError(f"not the list of a node: {type(error).__name__}") from None
        with transaction.atomic():
            count = sum(self._take(hospital, code, patients) for code, patients in departments.items())
        self.stdout.write(f"{count} patients in care at {hospital}")

    def _take(self, hospital: str, code: str, patients: list[dict[str, str]]) -> int:
        department = Department.objects.filter(hospital_id=hospital, code=code).first()
        if department is None:
            return 0
        references = [patient["reference"] for patient in patients]
        current = CareRelation.objects.filter(department=department, ended_at__isnull=True)
        current.exclude(patient_reference__in=references).update(ended_at=timezone.now())
        known = set(current.values_list("patient_reference", flat=True))
        CareRelation.objects.bulk_create(
            CareRelation(department=department, patient_reference=p["reference"], label=p["label"][:80])
            for p in patients
            if p["reference"] not in known
        )
        return len(references)
