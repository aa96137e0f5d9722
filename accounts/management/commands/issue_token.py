"""Issues a bearer token: ``manage.py issue_token USER --name NAME [--scope SCOPE ...] [--days N]``."""

from __future__ import annotations

from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction
from django.utils import timezone

from accounts import principals
from accounts.models import ApiToken, Membership
from fdrouter.evidence import Event, record


class Command(BaseCommand):
    help = "Prints a new token of a person's present post, once. With scopes it is good for these alone."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("user", help="user name")
        parser.add_argument("--name", required=True, help="by which its owner recognises it")
        parser.add_argument("--scope", action="append", default=[], help="such as system/AuditEvent.rs")
        parser.add_argument("--days", type=int, help="until it expires; without it never")

    def handle(self, *args: Any, **options: Any) -> None:
        posts = Membership.objects.filter(active=True, user__is_active=True)
        post = posts.filter(user__username=options["user"]).first()
        if post is None:
            raise CommandError("Nobody of this name has a post.")
        with transaction.atomic():
            token = principals.issue_token(post, options["name"], options["scope"])
            made = ApiToken.objects.filter(digest=principals.token_digest(token))
            if options["days"] is not None:
                made.update(expires_at=timezone.now() + timedelta(days=options["days"]))
            details = {"scopes": options["scope"], "days": options["days"], "prefix": token[:10]}
            record(Event(kind="token.issue", actor_id=post.user_id, hospital=post.hospital_id, details=details))
        self.stdout.write(token)
