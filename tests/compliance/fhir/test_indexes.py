"""What the database reads for a page of a long log."""

from __future__ import annotations

import pytest
from django.db import connection

from accounts import principals
from compliance.fhir import search
from tests.compliance.network import Network

pytestmark = pytest.mark.django_db

FILL = """
INSERT INTO compliance_event (at, kind, outcome, actor_id, subject, hospital, department, purpose, details)
SELECT '2026-01-01'::timestamptz + n * interval '10 s', (ARRAY['policy.decision', 'request.submit', 'ledger.reserve',
  'node.receipt', 'request.finish'])[1 + n %% 5], CASE WHEN n %% 50 = 0 THEN 'denied' ELSE 'ok' END, 100 + n %% 2000,
  gen_random_uuid(), (ARRAY['northfield', 'lakeside', 'elm'])[1 + n %% 3], 'cardiology', 'TREAT', '{}'
FROM generate_series(1, %s) AS n
"""


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"date": ["ge2026-01-02", "lt2026-01-03"]},
        {"agent": ["117"]},
        {"entity": ["00000000-0000-0000-0000-000000000001"]},
        {"type": ["110113"], "date": ["ge2026-01-02"]},
        {"site": ["lakeside"]},
        {"_after": ["1767312000000000-5"]},
    ],
    ids=str,
)
def test_a_page_reads_indexes_however_long_the_log_is(parameters: dict[str, list[str]], network: Network) -> None:
    with connection.cursor() as cursor:
        cursor.execute(FILL, [20_000])
        cursor.execute("ANALYZE compliance_event")
    asked = search.parse(parameters)
    for user in (network.officer, network.lakeside_officer):
        rows = search.rows(principals.for_user(user.pk), asked)
        plan = search.following(rows, asked)[:51].explain()
        assert "Seq Scan on compliance_event" not in plan, plan
        assert "Index" in plan
