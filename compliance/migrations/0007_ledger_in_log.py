"""The SQL of ``compliance/sql/ledger.sql``, and what budgets had used before their movements were in the log."""

from pathlib import Path

from django.db import migrations

SQL = Path(__file__).resolve().parent.parent / "sql" / "ledger.sql"
OPENING = """
INSERT INTO compliance_event (at, kind, outcome, details)
  SELECT clock_timestamp(), 'ledger.opening', 'ok', jsonb_build_object('ledger', jsonb_agg(jsonb_build_object(
    'key', key, 'unit', unit, 'amount', used, 'why', 'opening') ORDER BY id))
  FROM privacy_scope WHERE unit <> 'requests' AND used <> 0 HAVING count(*) > 0
"""


class Migration(migrations.Migration):
    dependencies = [("compliance", "0006_tree_functions"), ("privacy", "0005_blocks_by_cohort")]
    operations = [
        migrations.RunSQL(SQL.read_text(encoding="utf-8"), migrations.RunSQL.noop),
        migrations.RunSQL(OPENING, migrations.RunSQL.noop),
    ]
