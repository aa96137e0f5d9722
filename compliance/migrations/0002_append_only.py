"""The SQL of ``compliance/sql/log.sql``: CREATE OR REPLACE throughout, so it can be applied again."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "log.sql"


class Migration(migrations.Migration):
    dependencies = [("privacy", "0002_ledger_functions"), ("compliance", "0001_initial")]
    operations = [migrations.RunSQL(SQL.read_text(encoding="utf-8"), migrations.RunSQL.noop)]
