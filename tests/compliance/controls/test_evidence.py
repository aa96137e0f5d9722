"""Evidence follows the data: each query changes its mind when what it looks at is broken."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from accounts import principals
from accounts.models import Membership, User
from compliance import log, period, reports
from compliance.controls import matrix
from compliance.controls.evidence import QUERIES, Evidence, checked, run
from compliance.controls.queries import nodes
from compliance.models import Cosignature, Event, Report
from fdrouter import crypto, evidence
from federation import identity
from federation.models import Inference, Node
from privacy import claims
from privacy.models import Scope
from tests.compliance.network import Network

MONTH = period.last_days(30)


def look(network: Network, query: str, **parameters: Any) -> Evidence:
    return run(query, checked(query, parameters), network.principal, MONTH)


def execute(*statements: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # a table with checks to come cannot be altered
        for statement in statements:
            cursor.execute(statement)


def unguarded(statement: str, table: str = "compliance_event") -> None:
    """What somebody who owns the database can do."""
    execute(f"ALTER TABLE {table} DISABLE TRIGGER USER", statement, f"ALTER TABLE {table} ENABLE TRIGGER USER")


def named(network: Network) -> None:
    for user in User.objects.all():
        User.objects.filter(pk=user.pk).update(first_name=user.username.title(), last_name="Smith")


def seal_all(network: Network) -> None:
    for row in Inference.objects.all():
        answer = crypto.seal("answer", row.pk.bytes, b"yes") if row.answer else None
        sealed = {"request": crypto.seal("request", row.pk.bytes, b"ask"), "answer": answer}
        Inference.objects.filter(pk=row.pk).update(**sealed)


def status(node: str, **changes: Any) -> None:
    row = Node.objects.get(pk=node)
    Node.objects.filter(pk=node).update(status=row.status | changes)


def pinned() -> None:
    Node.objects.update(certificate_sha256="ab" * 32)


def nobody_decided(network: Network) -> None:
    unguarded("DELETE FROM compliance_event WHERE kind = 'policy.decision'")


def no_receipts(network: Network) -> None:
    Inference.objects.filter(state="done").update(receipt=None)


def nothing(network: Network) -> None:
    """The network as it is."""


def recorded(**fields: Any) -> Callable[[Network], None]:
    return lambda network: evidence.record(evidence.Event(actor_id=network.officer.pk, **fields))


def reviewed(network: Network) -> None:
    row = Inference.objects.filter(state="done").first()
    assert row is not None
    evidence.record(evidence.Event(kind="answer.review", outcome="accepted", actor_id=row.user_id, subject=row.pk))


def sql(statement: str) -> Callable[[Network], None]:
    return lambda network: execute(statement)


def behind_its_back(statement: str) -> Callable[[Network], None]:
    return lambda network: unguarded(statement)


def changed(model: Any, **values: Any) -> Callable[[Network], None]:
    def change(network: Network) -> None:
        model.objects.update(**values)

    return change


GUARDED = {"tables": ["compliance_event", "compliance_leaf", "privacy_entry"]}
ASKED = {"kinds": ["policy.decision", "request.submit"]}
LONG_AGO = timezone.now() - timedelta(days=400)

CASES: list[tuple[str, dict[str, Any], Callable[[Network], None], str]] = [
    ("accounts.unique", {}, nothing, "not_met"),
    ("accounts.unique", {}, named, "met"),
    ("accounts.unique", {}, changed(User, first_name="Ann", last_name="Lee"), "partial"),
    ("accounts.dormant", {}, nothing, "met"),
    ("accounts.second_factor", {}, nothing, "not_met"),
    ("accounts.second_factor", {"app": "axes"}, nothing, "partial"),
    ("accounts.credentials", {}, changed(User, password="argon2$x"), "met"),
    ("accounts.credentials", {}, changed(User, password="md5$x$y"), "not_met"),
    ("accounts.credentials", {}, changed(User, password="secret"), "not_met"),
    ("accounts.privileges", {"kinds": ["post.begin"]}, nothing, "not_met"),
    ("sign_ins.watched", {}, nothing, "met"),
    ("sign_ins.watched", {"most_attempts": 3}, nothing, "not_met"),
    ("sessions.timeouts", {}, nothing, "partial"),
    ("sessions.timeouts", {"most_hours": 4}, nothing, "not_met"),
    ("log.events", ASKED, nothing, "met"),
    ("log.events", {"kinds": ["policy.decision", "never.seen"]}, nothing, "partial"),
    ("log.events", {"kinds": ["never.seen"]}, nothing, "not_met"),
    ("log.complete", {}, nothing, "met"),
    ("log.complete", {}, behind_its_back("DELETE FROM compliance_event WHERE kind = 'request.submit'"), "not_met"),
    ("log.integrity", {}, nothing, "partial"),
    ("log.integrity", {}, behind_its_back("UPDATE compliance_event SET outcome = 'x' WHERE seq > 3"), "not_met"),
    ("log.guarded", GUARDED, nothing, "met"),
    ("log.guarded", {"tables": ["accounts_user"]}, nothing, "not_met"),
    ("log.guarded", {"tables": ["no_such_table"]}, nothing, "not_met"),
    ("log.guarded", GUARDED, sql("ALTER TABLE privacy_entry DISABLE TRIGGER USER"), "not_met"),
    ("log.guarded", GUARDED, sql("ALTER TABLE privacy_entry ENABLE TRIGGER privacy_entry_append_only"), "not_met"),
    ("log.guarded", GUARDED, sql("DROP TRIGGER compliance_leaf_append_only ON compliance_leaf"), "not_met"),
    ("log.retained", {}, nothing, "met"),
    ("log.retained", {}, sql("DROP TRIGGER compliance_event_append_only ON compliance_event"), "not_met"),
    ("log.purposes", ASKED, nothing, "met"),
    ("log.purposes", ASKED, recorded(kind="request.submit"), "not_met"),
    ("log.purposes", {"kinds": ["never.seen"]}, nothing, "partial"),
    ("log.sortable", {}, nothing, "met"),
    ("blocks.spent", {}, nothing, "met"),
    ("blocks.spent", {}, lambda network: status("lakeside", block=None), "partial"),
    ("blocks.spent", {}, changed(Node, status={}), "not_met"),
    ("ledger.adds_up", {}, nothing, "met"),
    ("ledger.adds_up", {}, sql("UPDATE privacy_scope SET used = used + 1 WHERE used > 0"), "not_met"),
    ("ledger.reconciled", {}, nothing, "met"),
    ("ledger.reconciled", {}, lambda network: status("lakeside", mismatch={"block": "b"}), "not_met"),
    ("ledger.reconciled", {}, recorded(kind="ledger.mismatch", hospital="lakeside"), "partial"),
    ("claims.sheets", {"field": "unit"}, nothing, "met"),
    ("claims.sheets", {"field": "colour"}, nothing, "not_met"),
    ("quotas.limits", {}, nothing, "met"),
    ("quotas.limits", {}, sql("UPDATE privacy_scope SET cap = cap * 2"), "not_met"),
    ("nodes.transmission", {}, nothing, "not_met"),
    ("nodes.transmission", {}, lambda network: pinned(), "partial"),
    ("nodes.up", {}, nothing, "partial"),
    ("nodes.up", {}, changed(Node, last_seen_at=None), "not_met"),
    ("answers.decided", {}, nothing, "met"),
    ("answers.decided", {}, nobody_decided, "not_met"),
    ("storage.sealed", {}, nothing, "not_met"),
    ("storage.sealed", {}, seal_all, "partial"),
    ("answers.receipts", {}, nothing, "met"),
    ("answers.receipts", {}, no_receipts, "not_met"),
    ("answers.receipts", {"digest": "model_digest"}, nothing, "not_met"),
    ("answers.claimed", {}, nothing, "met"),
    ("answers.claimed", {}, no_receipts, "not_met"),
    ("answers.overseen", {}, nothing, "not_met"),
    ("answers.overseen", {}, reviewed, "met"),
    ("answers.overseen", {"least_percent": 50.0}, reviewed, "partial"),
    ("answers.care", {}, nothing, "partial"),
    ("answers.care", {}, nobody_decided, "not_met"),
    ("product.feature", {"what": "x", "modules": ["compliance.log"], "kinds": ["never.seen"]}, nothing, "partial"),
    ("product.feature", {"what": "x", "modules": ["no.such"], "kinds": ["policy.decision"]}, nothing, "not_met"),
    ("product.feature", {"what": "x", "modules": ["compliance.log"], "kinds": ["request.submit"]}, nothing, "met"),
    ("product.documents", {"paths": ["README.md"], "missing_part": "Much."}, nothing, "partial"),
    ("product.documents", {"paths": ["NONE.md"], "missing_part": "Much."}, nothing, "not_met"),
    ("reports.made", {}, nothing, "partial"),
    ("exports.recorded", {"kinds": ["events.export"]}, nothing, "partial"),
    ("scope.not_applicable", {"reason": "Not ours."}, nothing, "not_applicable"),
]


@pytest.mark.parametrize(
    ("query", "parameters", "happened", "expected"),
    CASES,
    ids=[f"{query}-{expected}-{nth}" for nth, (query, _, _, expected) in enumerate(CASES)],
)
def test_a_status_is_what_the_data_say(
    network: Network,
    query: str,
    parameters: dict[str, Any],
    happened: Callable[[Network], None],
    expected: str,
) -> None:
    log.sequence()
    happened(network)
    found = look(network, query, **parameters)
    assert found.status == expected, found.sentence
    assert not found.sentence[0].islower() and found.sentence.endswith(".")
    assert timezone.now() - found.checked_at < timedelta(seconds=10)
    if found.table is not None:
        found.table.total()
        assert all(len(row) == len(found.table.columns) for row in found.table.first(5))


def test_every_query_has_its_case() -> None:
    assert {query for query, *_ in CASES} == set(QUERIES)


# --- what takes more to break --------------------------------------------------------------------------------------
def test_dormant_accounts_are_named_and_those_who_ask_are_not(network: Network) -> None:
    User.objects.update(date_joined=LONG_AGO, last_login=LONG_AGO)
    Membership.objects.update(since=LONG_AGO)
    found = look(network, "accounts.dormant")
    assert found.status == "partial" and found.table is not None
    assert {row[0] for row in found.table.first(10)} == {"officer", "auditor", "lakeside.officer", "operator"}
    assert look(network, "accounts.dormant", days=500).status == "met"


def test_a_missing_claim_sheet_is_named(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(claims, "IMPLEMENTED", {**claims.IMPLEMENTED, "astrology": 1})
    found = look(network, "claims.sheets")
    assert found.status == "not_met" and "astrology" in found.sentence


def test_a_policy_that_forgets_the_care_relation_turns_it_red(network: Network, tmp_path: Path, settings: Any) -> None:
    file = tmp_path / "wide.cedar"
    file.write_text("permit(principal, action, resource);")
    settings.POLICY_FILE = file
    assert look(network, "answers.care").status == "not_met"


def test_a_session_that_slides_is_judged_by_its_idle_time(network: Network, settings: Any) -> None:
    settings.SESSION_SAVE_EVERY_REQUEST, settings.SESSION_COOKIE_AGE = True, 900
    assert look(network, "sessions.timeouts").status == "partial"
    settings.SESSION_COOKIE_AGE = 7200
    assert look(network, "sessions.timeouts").status == "not_met"


def test_a_post_that_the_log_knows_of_is_no_fault(network: Network) -> None:
    for _ in range(Membership.objects.count()):
        evidence.record(evidence.Event(kind="post.begin", hospital="northfield"))
    assert look(network, "accounts.privileges", kinds=["post.begin"]).status == "met"


def test_an_altered_entry_is_named_by_its_number(network: Network) -> None:
    log.sequence()
    victim = Event.objects.filter(kind="request.finish").latest("seq")
    unguarded(f"UPDATE compliance_event SET purpose = 'HRESCH' WHERE seq = {victim.pk}")
    assert f"Entry {victim.pk} was changed" in look(network, "log.integrity").sentence


def test_a_report_shows_when_it_is_made(network: Network) -> None:
    reports.request(network.principal, MONTH)
    assert look(network, "reports.made").status == "partial"
    Report.objects.update(state="rendering")
    Report.objects.update(state="done", facts={}, pdf=b"%PDF", finished_at=timezone.now())
    assert look(network, "reports.made").status == "met"


@pytest.fixture
def own(settings: Any, tmp_path: Path) -> Path:
    """This process has keys to sign with."""
    identity.create_ca(tmp_path / "ca")
    identity.issue(tmp_path / "ca", tmp_path, "coordinator", server=False)
    settings.IDENTITY_DIR = tmp_path
    return tmp_path


def test_a_signed_root_that_the_tree_has_is_met_with_a_witness(network: Network, own: Path, settings: Any) -> None:
    log.sequence()
    made = log.checkpoint(force=True)
    assert made is not None and look(network, "log.integrity").status == "partial"
    Cosignature.objects.create(checkpoint=made, witness="northfield", lines="a line")
    assert look(network, "log.integrity").status == "met"
    settings.IDENTITY_DIR = own / "elsewhere"
    assert "cannot be checked" in look(network, "log.integrity").sentence
    settings.IDENTITY_DIR = own
    unguarded("UPDATE compliance_checkpoint SET note = replace(note, '1', '2')", "compliance_checkpoint")
    assert look(network, "log.integrity").status == "not_met"


def test_a_tree_that_was_changed_has_another_root(network: Network, own: Path) -> None:
    log.sequence()
    log.checkpoint(force=True)
    unguarded("UPDATE compliance_tile SET hashes = set_byte(hashes, 3, 255 - get_byte(hashes, 3))", "compliance_tile")
    found = look(network, "log.integrity")
    assert found.status == "not_met" and "does not have the root" in found.sentence


# --- within reach -------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("query", ["accounts.unique", "accounts.dormant", "accounts.credentials"])
def test_a_hospitals_officer_counts_its_people_only(network: Network, query: str) -> None:
    theirs = principals.for_user(network.lakeside_officer.pk)
    found = run(query, checked(query, {}), theirs, MONTH)
    assert found.counts[0].value == 2
    assert look(network, query).counts[0].value == 6


def test_every_row_of_a_hospitals_officer_is_the_hospitals(network: Network) -> None:
    theirs = principals.for_user(network.lakeside_officer.pk)
    people = {network.lakeside_officer.pk, network.neighbour.pk}
    for row in matrix.rows(theirs, MONTH):
        table = row.evidence.table
        if table is None or isinstance(table.rows, (list, tuple)):
            continue
        for found in table.rows[:50]:
            if isinstance(found, Event):
                assert found.hospital == "lakeside" or found.actor_id in people, row.control.id
            if isinstance(found, Membership | Scope):
                where = found.hospital_id if isinstance(found, Membership) else found.hospital
                assert where == "lakeside", row.control.id
            if isinstance(found, Node):
                assert found.hospital_id == "lakeside"


# --- the whole ----------------------------------------------------------------------------------------------------
def test_the_matrix_asks_each_question_once(network: Network) -> None:
    asked = {
        (c.evidence.query, str(c.evidence.parameters))
        for row in matrix.rows(network.principal, MONTH)
        for c in (row.control,)
    }
    with CaptureQueriesContext(connection) as captured:
        rows = matrix.rows(network.principal, MONTH)
    assert len(rows) > len(asked)
    assert len(captured) < 5 * len(asked)


def test_what_no_test_guards_is_never_met(network: Network) -> None:
    guarded = {row.control.id for row in matrix.rows(network.principal, MONTH) if row.control.tests}
    met = {row.control.id for row in matrix.rows(network.principal, MONTH) if row.status == "met"}
    assert met and met <= guarded


def test_the_certificate_of_this_process_is_read(settings: Any, tmp_path: Path) -> None:
    settings.IDENTITY_DIR = tmp_path
    assert nodes.own_certificate_days() is None
    identity.create_ca(tmp_path / "ca")
    identity.issue(tmp_path / "ca", tmp_path, "coordinator", server=False)
    days = nodes.own_certificate_days()
    assert days is not None and 0 < days <= 400
