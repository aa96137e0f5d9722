"""A process killed at every step of a reservation leaves no charge or the full charge, and balanced books."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from django.db import connection, transaction

from privacy import ledger
from privacy.models import Reservation, Scope
from tests.privacy.ledger.books import audit, block, request, used
from tests.privacy.ledger.crasher import STEPS

pytestmark = pytest.mark.django_db(transaction=True)

AMOUNT = 6


@contextmanager
def process(step: str, reservation: uuid.UUID, scope: Scope) -> Iterator[subprocess.Popen[str]]:
    """The process, once it has reached the step."""
    command = [sys.executable, "-m", "tests.privacy.ledger.crasher", step, str(reservation), str(scope.pk), str(AMOUNT)]
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "here\n"
        yield child
    finally:
        child.kill()
        child.wait(10)
        assert child.stdout is not None
        child.stdout.close()


def kill(child: subprocess.Popen[str]) -> None:
    child.send_signal(signal.SIGKILL)
    child.wait(10)


def wait_until_rolled_back(scope: Scope) -> None:
    """PostgreSQL notices the dead client at its next read; until then its row locks stay."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute("SET LOCAL lock_timeout = '10s'")
        cursor.execute("SELECT 1 FROM privacy_scope WHERE id = %s FOR UPDATE", [scope.pk])


@pytest.mark.parametrize("step", STEPS)
def test_a_kill_leaves_no_charge_or_a_full_charge(step: str) -> None:
    scope, reservation = block(10), uuid.uuid4()
    with process(step, reservation, scope) as child:
        kill(child)
    wait_until_rolled_back(scope)
    state = Reservation.objects.filter(pk=reservation).values_list("state", flat=True).first()
    expected = {
        "reserving": (None, 0),  # nothing was committed, so nothing was dispatched
        "reserved": ("reserved", AMOUNT),
        "settling": ("reserved", AMOUNT),  # the answer is lost, the charge is not
        "settled": ("settled", 1),
        "releasing": ("reserved", AMOUNT),
        "released": ("released", 0),
        "expiring": ("reserved", AMOUNT),
    }[step]
    assert (state, used(scope)) == expected
    audit([scope])
    if state == "reserved":
        _is_ended_by_expiry_at_its_full_price(reservation, scope)
    assert ledger.reserve(request((scope, 10 - used(scope)))), "the rest of the budget is free to use"
    audit([scope])


def _is_ended_by_expiry_at_its_full_price(reservation: uuid.UUID, scope: Scope) -> None:
    assert ledger.expire() == {reservation}
    assert used(scope) == AMOUNT
    assert not ledger.settle(reservation, 1), "a late answer changes nothing"
    assert not ledger.release(reservation)
    assert used(scope) == AMOUNT


@pytest.mark.parametrize("milliseconds", [13, 57, 131])
def test_a_kill_at_any_moment_loses_nothing_that_was_acknowledged(milliseconds: int) -> None:
    scope = block(10**9)
    with process("loop", uuid.uuid4(), scope) as child:
        time.sleep(milliseconds / 1000)
        kill(child)
        assert child.stdout is not None
        lines = [line.split() for line in child.stdout.read().splitlines()]
    wait_until_rolled_back(scope)
    rows = {str(pk): state for pk, state in Reservation.objects.values_list("pk", "state")}
    for word, pk in (line for line in lines if len(line) == 2 and len(line[1]) == 36):
        assert rows[pk] == "settled" or word == "reserved"
    assert 0 <= len(rows) - sum(word == "reserved" for word, *_ in lines) <= 1, "at most the one not yet told"
    open_ones = sum(state == "reserved" for state in rows.values())
    assert open_ones <= 1
    assert used(scope) == len(rows) - open_ones + 3 * open_ones
    audit([scope])
