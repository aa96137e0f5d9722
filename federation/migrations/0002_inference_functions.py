"""The SQL of ``federation/sql/inference.sql``: CREATE OR REPLACE throughout, so it can be applied again."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "inference.sql"


class Migration(migrations.Migration):
    dependencies = [
        ("privacy", "0002_ledger_functions"),
        ("compliance", "0002_append_only"),
        ("federation", "0001_initial"),
    ]
    operations = [migrations.RunSQL(SQL.read_text(encoding="utf-8"), migrations.RunSQL.noop)]
