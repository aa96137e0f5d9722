"""Claim sheets for the OpenDP Deployments Registry: ``manage.py export_registry --as OFFICER --folder PATH``."""

from __future__ import annotations

from argparse import ArgumentParser
from pathlib import Path
from typing import Any

import yaml
from django.core.management.base import BaseCommand, CommandError

from accounts import principals
from accounts.models import User
from compliance import registry
from fdrouter.errors import DomainError


class Command(BaseCommand):
    help = "Writes one file for each mechanism that has answered, as the OpenDP Deployments Registry takes them."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--as", dest="user", required=True, help="the officer or auditor who exports")
        parser.add_argument("--folder", type=Path, required=True, help="where the files are written")

    def handle(self, *args: Any, **options: Any) -> None:
        user = User.objects.filter(username=options["user"]).first()
        try:
            found = registry.export(principals.for_user(user.pk if user else 0))
        except DomainError:
            raise CommandError("This person exports no evidence here.") from None
        options["folder"].mkdir(parents=True, exist_ok=True)
        for entry in found["deployments"]:
            text = yaml.safe_dump(entry, sort_keys=False, allow_unicode=True, width=120)
            (options["folder"] / f"{entry['url_slug']}.yaml").write_text(text, encoding="utf-8")
        self.stdout.write(f"{len(found['deployments'])} entries; never used: {', '.join(found['unused']) or 'none'}")
