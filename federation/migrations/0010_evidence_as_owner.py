"""The SQL of ``federation/sql/inference.sql`` again: what writes evidence runs as the owner of the tables."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "inference.sql"


class Migration(migrations.Migration):
    dependencies = [("federation", "0009_answer_reviews")]
    operations = [migrations.RunSQL(SQL.read_text(encoding="utf-8"), migrations.RunSQL.noop)]
