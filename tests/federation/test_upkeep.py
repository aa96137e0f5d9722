"""What beat calls: overdue reservations end with their charge kept; nodes are probed, whatever one of them answers."""

from __future__ import annotations

import asyncio
import json
import threading
import uuid
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.db import connection

from accounts.models import User
from compliance.models import Event
from federation import upkeep
from federation.models import Node, Transport
from privacy import ledger, quotas
from privacy.models import Reservation, ReservationState
from tests.accounts import people
from tests.federation import rows
from tests.privacy.ledger.books import audit, block, request, used


@pytest.fixture
def ada() -> User:
    return people.person("ada")


def overdue(user: User, **values: Any) -> uuid.UUID:
    row = rows.request(user, "why?", epsilon=3.0, **values)
    with connection.cursor() as cursor:
        cursor.execute("UPDATE privacy_reservation SET expires_at = now() - interval '1 s' WHERE id = %s", [row.pk])
    return row.pk


@pytest.mark.django_db
@pytest.mark.parametrize(("state", "ends"), [("queued", False), ("dispatched", False), ("failed", True)])
def test_a_request_under_way_keeps_its_reservation_however_late(state: str, ends: bool, ada: User) -> None:
    pk = overdue(ada, state=state)
    assert upkeep.expire_reservations() == int(ends)
    assert Reservation.objects.get(pk=pk).state == ("expired" if ends else "reserved")
    assert Event.objects.filter(kind="ledger.expire", subject=pk).count() == int(ends)
    audit()


@pytest.mark.django_db
def test_a_reservation_whose_request_is_gone_ends_at_its_full_price() -> None:
    scope = block(10)
    wish = request((scope, 4))
    ledger.reserve(wish, seconds=-1)
    assert upkeep.expire_reservations() == 1
    assert used(scope) == 4
    assert upkeep.expire_reservations() == 0
    assert not ledger.settle(wish.id, 1)


@pytest.mark.django_db
def test_expiry_keeps_the_charge_of_person_and_department(ada: User) -> None:
    overdue(ada, state="failed")
    upkeep.expire_reservations()
    scopes = quotas.scopes_for(people.principal(ada))
    for pk in (scopes.user_epsilon, scopes.department_epsilon):
        with connection.cursor() as cursor:
            cursor.execute("SELECT used FROM privacy_scope WHERE id = %s", [pk])
            assert cursor.fetchone()[0] == 3_000_000
    assert Reservation.objects.get().state == ReservationState.EXPIRED


# --- probes ----------------------------------------------------------------------------------------------------------

GOOD_BLOCK = {"epsilon": 10.0, "delta": 1e-5, "epsilon_left": 9.0, "used": 1, "cap": 100, "alpha": 3.4}


class Nodes:
    """One HTTP server on loopback that answers for several nodes: the first part of the path names the node."""

    def __init__(self) -> None:
        self.answers: dict[str, tuple[int, bytes]] = {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                status, body = outer.answers[self.path.split("/")[1]]
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, name: str, body: Any, status: int = 200) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.answers[name] = (status, data)
        url = f"http://127.0.0.1:{self.server.server_address[1]}/{name}"
        rows.node(people.hospital(name, name.capitalize()), url=url, last_seen_at=None, status={"engine": "old"})


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    yield found
    found.server.shutdown()
    found.server.server_close()


def probe() -> int:
    async def run() -> int:
        count = await upkeep.probe_nodes()
        await asyncio.sleep(0)
        return count

    return async_to_sync(run)()


@pytest.mark.django_db(transaction=True)
def test_a_healthy_node_is_seen(nodes: Nodes) -> None:
    nodes.answer("good", {"engine": "ok", "block": GOOD_BLOCK, "running": 2})
    assert probe() == 1
    node = Node.objects.get(pk="good")
    assert node.status["healthy"] is True and node.status["block"] == GOOD_BLOCK and node.status["running"] == 2
    assert node.last_seen_at is not None and node.status["checked_at"]


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"not json", 200),
        (b"\xff\xfe", 200),
        ([], 200),
        ("ok", 200),
        (None, 200),
        ({"engine": "unreachable"}, 200),
        ({}, 200),
        ({"code": "block_exhausted"}, 503),
    ],
    ids=str,
)
def test_an_unhealthy_or_garbled_answer_keeps_no_other_node_from_being_seen(
    body: Any, status: int, nodes: Nodes
) -> None:
    nodes.answer("bad", body, status)
    nodes.answer("good", {"engine": "ok", "block": GOOD_BLOCK})
    assert probe() == 1
    bad = Node.objects.get(pk="bad")
    assert bad.status["healthy"] is False and bad.last_seen_at is None
    assert Node.objects.get(pk="good").status["healthy"] is True


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize(
    "wrong", ["text", [], {"cap": 1}, GOOD_BLOCK | {"used": "1"}, GOOD_BLOCK | {"alpha": None}], ids=str
)
def test_a_block_that_cannot_be_computed_with_is_not_stored(wrong: Any, nodes: Nodes) -> None:
    nodes.answer("odd", {"engine": "ok", "block": wrong})
    probe()
    assert Node.objects.get(pk="odd").status["block"] is None


@pytest.mark.django_db(transaction=True)
def test_a_node_that_is_down_keeps_its_last_figures_but_is_not_healthy(nodes: Nodes) -> None:
    rows.node(people.hospital(), url="http://127.0.0.1:1")
    seen = Node.objects.get().last_seen_at
    assert probe() == 0
    node = Node.objects.get()
    assert node.status["healthy"] is False and node.status["block"] and node.last_seen_at == seen


@pytest.mark.django_db(transaction=True)
def test_unreadable_keys_stop_no_other_probe(nodes: Nodes) -> None:
    nodes.answer("good", {"engine": "ok", "block": GOOD_BLOCK})
    for name, keys in (("a", {"name": "a"}), ("b", ["x"])):
        rows.node(people.hospital(name, name), url="http://127.0.0.1:1", public_keys=keys)
    assert probe() == 1


@pytest.mark.django_db(transaction=True)
def test_a_plain_engine_is_healthy_when_it_lists_models_and_a_closed_node_is_left_alone(nodes: Nodes) -> None:
    nodes.answer("plain", {"data": []})
    nodes.answer("closed", {"engine": "ok"})
    Node.objects.filter(pk="plain").update(transport=Transport.OPENAI)
    Node.objects.filter(pk="closed").update(active=False)
    assert probe() == 1
    assert Node.objects.get(pk="closed").status == {"engine": "old"}


@pytest.mark.django_db(transaction=True)
def test_a_database_that_restarted_is_noticed_by_no_probe() -> None:
    """The long-lived process that probes keeps no connection from one probe to the next."""
    for _ in range(2):
        assert asyncio.run(upkeep.probe_nodes()) == 0  # as the task does
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT count(pg_terminate_backend(pid, 5000)) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
