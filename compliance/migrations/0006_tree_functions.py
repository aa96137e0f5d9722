"""The SQL of ``compliance/sql/tree.sql``: CREATE OR REPLACE throughout, so it can be applied again."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "tree.sql"


class Migration(migrations.Migration):
    dependencies = [("compliance", "0005_tree")]
    operations = [migrations.RunSQL(SQL.read_text(encoding="utf-8"), migrations.RunSQL.noop)]
