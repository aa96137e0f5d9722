"""The flush between transactional tests: it empties every table and leaves every trigger as it was."""

from __future__ import annotations

import pytest
from django.core.management import call_command
from django.db import IntegrityError, connection, transaction

from accounts.models import User
from compliance.models import Event
from fdrouter import evidence
from federation.models import Inference
from privacy.models import Entry
from tests.accounts import people
from tests.federation import rows

TRIGGERS = "SELECT tgrelid::regclass::text, tgname, tgenabled FROM pg_trigger WHERE NOT tgisinternal ORDER BY 1, 2"


def triggers() -> list[tuple[str, str, str]]:
    with connection.cursor() as cursor:
        cursor.execute(TRIGGERS)
        found: list[tuple[str, str, str]] = cursor.fetchall()
    return found


def write() -> None:
    row = rows.request(people.person("ada"), "why?", epsilon=3.0)
    with transaction.atomic():
        evidence.record(evidence.Event(kind="request.submit", subject=row.pk, outcome="ok"))


@pytest.mark.django_db(transaction=True)
def test_it_empties_the_tables_and_evidence_stays_append_only() -> None:
    before = triggers()
    write()
    filled = (User, Inference, Entry, Event)
    assert all(model._default_manager.exists() for model in filled)
    call_command("flush", verbosity=0, interactive=False, reset_sequences=False, inhibit_post_migrate=True)
    with connection.cursor() as cursor:
        for table in connection.introspection.django_table_names(only_existing=True, include_views=False):
            cursor.execute(f"SELECT count(*) FROM {connection.ops.quote_name(table)}")
            assert cursor.fetchone() == (0,), table
    assert triggers() == before
    assert "A" in {enabled for _, _, enabled in before}
    write()
    for model in (Entry, Event):
        with pytest.raises(IntegrityError, match="append-only"):
            model._default_manager.all().delete()
