"""Makes ``docs/sample-report.pdf``: ``python -m tests.compliance.sample_report docs/sample-report.pdf``.

Six weeks of a made-up network of three hospitals, charged through the real ledger and recorded by the real log, and the
monthly report of the full month in it. The server's clock and Python's are set back: functions of the sandbox database
stand before PostgreSQL's own that tell the time.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta, tzinfo
from pathlib import Path
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

if TYPE_CHECKING:
    from accounts.models import User
    from federation.models import Node

ALPHA, CAP, EPSILON, DELTA = 3.4, 6_060_000_000, 10.0, 1e-5
FIRST, MONTH, TAKEN = date(2026, 9, 14), date(2026, 10, 1), datetime(2026, 11, 2, 9, 5, tzinfo=UTC)
HOSPITALS = {
    "northfield": "Northfield General",
    "lakeside": "Lakeside Medical Center",
    "hillcrest": "Hillcrest University Hospital",
}
LOADS = {"northfield": 1.0, "lakeside": 1.9, "hillcrest": 0.7}
"""How much a hospital's records are asked, relative to each other."""
KINDS = {
    "general": 40,
    "chart": 44,
    "cohort.released": 8,
    "cohort.count": 2,
    "cohort.choice": 5.5,
    "cohort.keywords": 2,
    "cohort.text": 0.25,
}
PURPOSES = {"TREAT": 70, "ETREAT": 9, "HOPERAT": 8, "HQUALIMP": 8, "HRESCH": 5}
MODEL = "9d1f" * 16
VERDICTS = (("accepted", 62), ("edited", 24), ("rejected", 14))
"""How clinicians decided about answers, and how often of a hundred decisions."""
CLOCK = """
CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
  AS $$ SELECT current_setting('sample.now')::timestamptz $$;
CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT public.clock_timestamp() $$;
CREATE FUNCTION public.statement_timestamp() RETURNS timestamptz LANGUAGE sql STABLE
  AS $$ SELECT public.clock_timestamp() $$;
SET search_path = public, pg_catalog;
DO $$ DECLARE name regprocedure; BEGIN
  FOR name IN SELECT p.oid::regprocedure FROM pg_proc p WHERE p.pronamespace = 'public'::regnamespace
      AND p.prolang IN (SELECT oid FROM pg_language WHERE lanname IN ('plpgsql', 'sql')) AND p.prokind = 'f' LOOP
    EXECUTE format('ALTER FUNCTION %s SET search_path = public, pg_catalog, pg_temp', name);
  END LOOP;
END $$;
"""


@dataclass
class Clock:
    """The sandbox's time, for both sides."""

    now: datetime = datetime(2026, 9, 14, tzinfo=UTC)

    def set(self, moment: datetime) -> None:
        from django.db import connection

        self.now = moment
        with connection.cursor() as cursor:
            cursor.execute("SELECT set_config('sample.now', %s, false)", [moment.isoformat()])

    def __call__(self) -> datetime:
        return self.now

    def as_class(self) -> type[datetime]:
        """A datetime whose ``now`` is this clock's."""
        clock = self

        class Shifted(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> Any:
                return clock.now.astimezone(tz)

        return Shifted


@dataclass
class World:
    """People and nodes, and what each block was charged (nano-units, claims)."""

    folder: Path
    people: list[User] = field(default_factory=list)
    nodes: dict[str, Node] = field(default_factory=dict)
    nano: Counter[str] = field(default_factory=Counter)
    claims: Counter[str] = field(default_factory=Counter)
    draw: random.Random = field(default_factory=lambda: random.Random(5))
    policy: str = ""


def build(folder: Path) -> World:
    """Hospitals, departments, people, nodes and identities."""
    from django.contrib.auth.hashers import Argon2PasswordHasher

    from accounts.models import Department, Hospital, Role, User
    from federation import document_key, identity
    from federation.demo_network import DEPARTMENTS
    from federation.models import Node, Transport
    from tests.accounts import people

    world = World(folder)
    identity.create_ca(folder / "ca")
    identity.issue(folder / "ca", folder / "own", "coordinator", server=False)
    document_key.issue(folder / "own", "Northfield network privacy office", ca=folder / "ca")
    for code, name in HOSPITALS.items():
        place = Hospital.objects.create(code=code, name=name)
        fingerprint = identity.issue(folder / "ca", folder / code, code, server=True)
        public = (folder / code / "public.json").read_text(encoding="utf-8")
        world.nodes[code] = Node.objects.create(
            id=code,
            hospital=place,
            name=f"{name} node",
            url="https://localhost:8443",
            served_models=["m"],
            public_keys=json.loads(public),
            transport=Transport.SEALED,
            certificate_sha256=fingerprint,
        )
        for key, title in DEPARTMENTS.items():
            ward = Department.objects.create(hospital=place, code=key, name=title)
            for role in (Role.ATTENDING, Role.RESIDENT, Role.NURSE)[: 3 if key == "emergency" else 2]:
                world.people.append(people.person(f"{code}.{key}.{role}", role, works_in=ward))
    people.person("paula.reinholt", Role.PRIVACY_OFFICER, network=True)
    User.objects.update(password=Argon2PasswordHasher().encode("not a secret of anybody", "a salt of nobody"))
    return world


def live(world: World, clock: Clock) -> None:
    """Every day's sign-ins, requests and refusals."""
    day = FIRST
    while day < MONTH + timedelta(days=31):
        weekend = day.weekday() >= 5
        moments = sorted(
            world.draw.uniform(6.5, 21.5)
            for _ in range(world.draw.randint(5, 9) if weekend else world.draw.randint(18, 30))
        )
        for hours in moments:
            clock.set(datetime(day.year, day.month, day.day, tzinfo=UTC) + timedelta(hours=hours))
            _moment(world, world.draw.choice(world.people))
        day += timedelta(days=1)


def _moment(world: World, user: User) -> None:
    from fdrouter import evidence

    if world.draw.random() < 0.3:
        outcome = "failed" if world.draw.random() < 0.04 else "ok"
        evidence.record(evidence.Event(kind="session.sign_in", outcome=outcome, actor_id=user.pk))
    if world.draw.random() < 0.02:
        refused = evidence.Event(
            kind="policy.decision", outcome="denied", actor_id=user.pk, details={"policy": "no-care-relation"}
        )
        evidence.record(refused)
        return
    kind = world.draw.choices(list(KINDS), list(KINDS.values()))[0]
    own = user.username.split(".")[0]
    asked = world.draw.choices(list(LOADS), list(LOADS.values()))[0] if kind.startswith("cohort") else own
    if asked == "northfield" and kind == "cohort.text":
        kind = "cohort.choice"
    _request(world, user, kind, asked)


def _plan(kind: str) -> Any:
    from privacy.dp.cohort_plans import plan_choice, plan_count, plan_keywords
    from privacy.dp.text_plan import plan_text

    makers: dict[str, Callable[[], Any]] = {
        "cohort.count": plan_count,
        "cohort.choice": lambda: plan_choice(options=3),
        "cohort.keywords": plan_keywords,
        "cohort.text": plan_text,
    }
    return makers[kind]() if kind in makers else None


def _request(world: World, user: User, kind: str, asked: str) -> None:
    """One request to its end, paid through the real ledger."""
    from accounts import principals
    from fdrouter.errors import QuotaSpent
    from privacy import ledger, quotas

    who, key, plan = principals.for_user(user.pk), uuid.UUID(int=world.draw.getrandbits(128)), _plan(kind)
    micro = quotas.micro(plan.epsilon) if plan else 0
    try:
        ledger.reserve(ledger.Request(id=key, charges=quotas.scopes_for(who).charges(micro)))
    except QuotaSpent:
        _record("request.submit", who, key, "quota_spent")
        return
    ends = world.draw.choices(["done", "failed", "cancelled"], [955, 30, 15])[0]
    ledger.release(key) if ends == "failed" else ledger.settle(key)
    why = world.draw.choice(["no_node", "no_node", "engine_failed", "timed_out"])
    reason = {"failed": why, "cancelled": "cancelled_by_user"}.get(ends, "")
    purpose = world.draw.choices(list(PURPOSES), list(PURPOSES.values()))[0]
    receipt = _receipt(world, key, kind, asked, plan) if ends == "done" else None
    _store(who, key, asked, receipt, kind=kind, state=ends, reason=reason, purpose=purpose, epsilon_micro=micro)
    _record("policy.decision", who, key, "allowed", purpose, {"policy_digest": world.policy})
    _record("request.submit", who, key, "ok", purpose)
    ending = {"done": "request.finish", "failed": "request.fail", "cancelled": "request.cancel"}[ends]
    _record(ending, who, key, reason or "ok", purpose)
    if ends == "done" and world.draw.random() < 0.3:
        _review(world, who, key)


def _receipt(world: World, key: uuid.UUID, kind: str, asked: str, plan: Any) -> dict[str, Any]:
    from privacy import quotas

    mechanism = None
    if plan:
        nano = plan.nano_at(ALPHA)
        world.nano[asked] += nano
        world.claims[asked] += quotas.micro(plan.epsilon)
        mechanism = {"name": kind, "epsilon": plan.epsilon, "delta": plan.delta, "nano_rdp_spent": nano}
    body = {"version": 1, "node": asked, "mechanism": mechanism, "model_digest": MODEL}
    return {"body": body, "digest": key.hex * 2, "signatures": {}}


def _store(who: Any, key: uuid.UUID, asked: str, receipt: dict[str, Any] | None, **values: Any) -> None:
    from django.utils import timezone

    from fdrouter import crypto
    from federation.models import Inference

    moment = timezone.now()
    Inference.objects.create(
        id=key,
        user_id=who.user_id,
        membership_id=who.membership_id,
        department_id=who.department_id,
        model="m",
        channel="web",
        stream=True,
        hospitals=[asked],
        delta=DELTA if values["epsilon_micro"] else 0.0,
        request_digest=bytes(32),
        request=crypto.seal("request", key.bytes, b"a question of the sample"),
        answer=crypto.seal("answer", key.bytes, b"an answer of the sample") if receipt else None,
        lease=moment,
        reply_to="here",
        node_id=asked,
        receipt=receipt,
        created_at=moment,
        finished_at=moment,
        **values,
    )


def _review(world: World, who: Any, key: uuid.UUID) -> None:
    from federation import oversight

    verdict = world.draw.choices([name for name, _ in VERDICTS], [weight for _, weight in VERDICTS])[0]
    reason = world.draw.choice(["wrong", "incomplete", "off_topic"]) if verdict == "rejected" else ""
    text = "an answer of the sample, put right" if verdict == "edited" else ""
    oversight.review(who, key, verdict=verdict, text=text, reason=reason)


def _record(
    kind: str,
    who: Any,
    subject: uuid.UUID,
    outcome: str = "ok",
    purpose: str | None = None,
    details: dict[str, Any] | None = None,
) -> None:
    from fdrouter import evidence

    evidence.record(
        evidence.Event(
            kind=kind,
            outcome=outcome,
            actor_id=who.user_id,
            subject=subject,
            hospital=who.hospital,
            department=who.department,
            purpose=purpose,
            details=details or {},
        )
    )


def report_blocks(world: World) -> None:
    """What the nodes' health says of their blocks, from what they were charged."""
    from django.utils import timezone

    from privacy.dp import accounting

    for code, node in world.nodes.items():
        used = min(world.nano[code], CAP)
        block = {"epsilon": EPSILON, "delta": DELTA, "alpha": ALPHA, "cap": CAP, "used": used}
        block |= {
            "epsilon_spent": accounting.epsilon_of_nano(used, ALPHA, DELTA) if used else 0.0,
            "plain_sum": world.claims[code] / 1e6,
        }
        left = accounting.epsilon_of_rho((CAP - used) / accounting.NANO / ALPHA, DELTA)
        block["epsilon_left"] = min(EPSILON, left)
        node.status = {"healthy": True, "block": block, "checked_at": timezone.now().isoformat()}
        node.last_seen_at = timezone.now()
        node.save()


def cosign(world: World, names: list[str]) -> None:
    """The latest checkpoint, cosigned by these nodes."""
    from django.db import connection

    from compliance import log
    from compliance.log import checkpoints
    from compliance.merkle import notes
    from federation import identity

    log.sequence()
    log.checkpoint(force=True)
    point = checkpoints.latest()
    assert point is not None
    for name in names:
        witness = checkpoints.signer_of(identity.load(world.folder / name))
        lines = notes.cosign(point.note, witness, int(TAKEN.timestamp())).removeprefix(point.note)
        with connection.cursor() as cursor:
            cursor.execute("SELECT log_cosign(%s, %s, %s)", [point.size, name, lines])


@contextmanager
def sandbox() -> Iterator[Clock]:
    """A database of its own whose clock can be set."""
    import django
    from django.test.runner import DiscoverRunner

    from tests import embedded

    django.setup()
    embedded.start()
    from django.db import connection

    runner = DiscoverRunner(verbosity=0, interactive=False)
    made = runner.setup_databases()
    clock = Clock()
    try:
        with connection.cursor() as cursor:
            cursor.execute(CLOCK)
        with patch("django.utils.timezone.now", clock), patch("privacy.quotas.datetime", clock.as_class()):
            yield clock
    finally:
        runner.teardown_databases(made)
        embedded.stop()


def make(file: Path) -> None:
    """The report as a file."""
    with sandbox() as clock, tempfile.TemporaryDirectory() as folder:
        from django.conf import settings
        from django.db import transaction

        from accounts import principals
        from accounts.models import User
        from accounts.policy import PolicyRequest, decide
        from compliance import pdf, period, reports, signing

        clock.set(clock.now)
        world = build(Path(folder))
        world.policy = decide(PolicyRequest("nobody", "general", "", "", "", False, False)).policy_digest
        settings.IDENTITY_DIR = Path(folder) / "own"
        with transaction.atomic():
            live(world, clock)
        clock.set(TAKEN)
        report_blocks(world)
        officer = principals.for_user(User.objects.get(username="paula.reinholt").pk)
        report, _ = reports.request(officer, period.whole("monthly", MONTH), kind="monthly")
        cosign(world, ["northfield", "hillcrest"])
        claimed = reports.claim(report.pk)
        assert claimed is not None
        reports.render(claimed, pdf.render, signing.sign)
        report.refresh_from_db()
        file.write_bytes(bytes(report.pdf or b""))
        file.with_suffix(".pem").write_bytes((Path(folder) / "own" / "documents-ca.pem").read_bytes())


if __name__ == "__main__":
    os.environ["DJANGO_SETTINGS_MODULE"] = "tests.settings"
    make(Path(sys.argv[1]))
