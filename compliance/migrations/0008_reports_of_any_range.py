"""Reports of any range instead of a month, what is attached, signatures; schedules. Reports of a month stay as they are.

The guard of finished reports would refuse to write their new columns: it is taken off and put on again.
"""

import uuid
from pathlib import Path

import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models

SQL = Path(__file__).resolve().parent.parent / "sql"
KINDS = [
    ("daily", "Day"),
    ("weekly", "Week"),
    ("monthly", "Month"),
    ("quarterly", "Quarter"),
    ("range", "Any range"),
]
OF_A_MONTH = """
UPDATE compliance_report SET kind = 'monthly', start = month,
  "end" = (month + interval '1 month' - interval '1 day')::date;
"""


class Migration(migrations.Migration):
    dependencies = [
        ("compliance", "0007_ledger_in_log"),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.RunSQL(
            "DROP TRIGGER compliance_report_guard ON compliance_report", (SQL / "reports.sql").read_text("utf-8")
        ),
        migrations.RemoveConstraint(model_name="report", name="report_open_once"),
        migrations.AddField(
            "report", "kind", models.CharField(max_length=12, choices=KINDS, default="monthly"), preserve_default=False
        ),
        migrations.AddField("report", "start", models.DateField(null=True, help_text="The first day.")),
        migrations.AddField("report", "end", models.DateField(null=True, help_text="The last day, included.")),
        migrations.AddField("report", "attached", models.JSONField(null=True)),
        migrations.AddField(
            "report", "document_sha256", models.CharField(max_length=64, blank=True, default=""), preserve_default=False
        ),
        migrations.AddField(
            "report", "signed_by", models.CharField(max_length=200, blank=True, default=""), preserve_default=False
        ),
        migrations.RunSQL(OF_A_MONTH, migrations.RunSQL.noop),
        migrations.AlterField("report", "start", models.DateField(help_text="The first day.")),
        migrations.AlterField("report", "end", models.DateField(help_text="The last day, included.")),
        migrations.RemoveField("report", "month"),
        migrations.AddConstraint(
            model_name="report",
            constraint=models.UniqueConstraint(
                condition=models.Q(("state__in", ["queued", "rendering"])),
                fields=("hospital", "start", "end"),
                name="report_open_once",
            ),
        ),
        migrations.AddConstraint(
            model_name="report",
            constraint=models.CheckConstraint(
                condition=models.Q(("end__gte", models.F("start"))), name="report_ends_after_it_begins"
            ),
        ),
        migrations.RunSQL((SQL / "reports.sql").read_text("utf-8"), migrations.RunSQL.noop),
        migrations.CreateModel(
            name="ReportSchedule",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                (
                    "kind",
                    models.CharField(
                        choices=[
                            ("daily", "Every day"),
                            ("weekly", "Every week"),
                            ("monthly", "Every month"),
                            ("quarterly", "Every quarter"),
                        ],
                        max_length=12,
                    ),
                ),
                ("hospital", models.CharField(blank=True, help_text="Empty: the whole network.", max_length=40)),
                ("recipients", models.JSONField(help_text="Mail addresses.")),
                ("attach", models.BooleanField(default=False)),
                ("active", models.BooleanField(default=True)),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("last_end", models.DateField()),
                (
                    "owner",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="report_schedules",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
            ],
        ),
        migrations.CreateModel(
            name="ReportDelivery",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("start", models.DateField()),
                ("end", models.DateField()),
                (
                    "state",
                    models.CharField(
                        choices=[
                            ("waiting", "Waiting for the report"),
                            ("sending", "Sending"),
                            ("sent", "Sent"),
                            ("failed", "Failed"),
                        ],
                        default="waiting",
                        max_length=12,
                    ),
                ),
                ("reason", models.CharField(blank=True, max_length=40)),
                ("attempts", models.PositiveSmallIntegerField(default=0)),
                (
                    "next_at",
                    models.DateTimeField(
                        help_text="Not before then; of one that is being sent, when it counts as lost."
                    ),
                ),
                ("created_at", models.DateTimeField(auto_now_add=True)),
                ("ended_at", models.DateTimeField(null=True)),
                (
                    "report",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="deliveries",
                        to="compliance.report",
                    ),
                ),
                (
                    "schedule",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="deliveries",
                        to="compliance.reportschedule",
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["state", "next_at"], name="report_delivery_due")],
                "constraints": [
                    models.UniqueConstraint(fields=("schedule", "start", "end"), name="report_delivery_once"),
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("ended_at__isnull", False), ("state__in", ["sent", "failed"])),
                            models.Q(models.Q(("state__in", ["sent", "failed"]), _negated=True), ("ended_at", None)),
                            _connector="OR",
                        ),
                        name="report_delivery_ends_once",
                    ),
                ],
            },
        ),
        migrations.RunSQL((SQL / "deliveries.sql").read_text("utf-8"), migrations.RunSQL.noop),
    ]
