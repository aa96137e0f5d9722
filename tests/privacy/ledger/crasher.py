"""A process that stops in the middle of a step and waits to be killed. Run by ``test_crash.py``.

``python -m tests.privacy.ledger.crasher STEP RESERVATION SCOPE AMOUNT``. It writes one line when it has reached the
step. ``loop`` never stops by itself: it reserves and settles as fast as it can and writes what it has committed.
"""

from __future__ import annotations

import os
import sys
import time
import uuid

import django

STEPS = ("reserving", "reserved", "settling", "settled", "releasing", "released", "expiring")


def main(step: str, reservation: str, scope: str, amount: str) -> None:
    django.setup()
    from django.db import transaction

    from privacy import ledger
    from privacy.ledger import Charge, Request

    wish = Request(id=uuid.UUID(reservation), charges=[Charge(int(scope), int(amount))], event={"rho": 0.5})
    if step == "loop":
        _loop(int(scope))
    with transaction.atomic():
        ledger.reserve(wish, seconds=-1)
        if step == "reserving":
            _wait()
    if step == "reserved":
        _wait()
    with transaction.atomic():
        if step.startswith("sett"):
            ledger.settle(wish.id, 1)
        elif step.startswith("releas"):
            ledger.release(wish.id)
        else:
            ledger.expire()
        if step.endswith("ing"):
            _wait()
    _wait()


def _say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


def _wait() -> None:
    _say("here")
    time.sleep(120)


def _loop(scope: int) -> None:
    from django.db import transaction

    from privacy import ledger
    from privacy.ledger import Charge, Request

    _say("here")
    while True:
        wish = Request(id=uuid.uuid4(), charges=[Charge(scope, 3)])
        with transaction.atomic():
            ledger.reserve(wish)
        _say(f"reserved {wish.id}")
        with transaction.atomic():
            ledger.settle(wish.id, 1)
        _say(f"settled {wish.id}")


if __name__ == "__main__":
    main(*sys.argv[1:])
