"""Nodes cosign what continues all that they cosigned, and nothing else; the coordinator keeps what holds."""

from __future__ import annotations

import base64
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from django.test import AsyncRequestFactory

from accounts.models import Hospital
from compliance import log
from compliance.log import bundle, checkpoints, cosigning
from compliance.log.verify import verify
from compliance.merkle import notes, tiles
from compliance.merkle.hashing import leaf_hash
from compliance.models import Checkpoint, Cosignature, Event, Witnessed
from fdrouter import evidence
from fdrouter.errors import InvalidParameter
from federation.database import in_thread
from federation.models import Node
from federation.node import views
from tests.compliance.log.writing import without_guards, write
from tests.federation.keys import ring


class Origin:
    """The coordinator's log in memory, with as many histories as a test wants."""

    def __init__(self, *names: str) -> None:
        self.hashes = [leaf_hash(name.encode()) for name in names]
        self.tiles = tiles.grow(0, self.hashes, lambda level, index: b"")

    def read(self, level: int, index: int) -> bytes:
        return self.tiles.get((level, index), b"")

    def offer(self, size: int, first: int, *, by: str = "coordinator") -> dict[str, Any]:
        signer = checkpoints.signer_of(ring().identity(by))
        note = notes.sign(notes.Checkpoint(by, size, tiles.root(size, self.read)), signer)
        proof = tiles.consistency(first, size, self.read) if first <= size else []
        return {"note": note, "first": first, "proof": [base64.b64encode(value).decode() for value in proof]}


@pytest.fixture
def node(settings: Any, db: None) -> notes.Key:
    settings.NODE_ID = settings.HOSPITAL_ID = "northfield"
    settings.IDENTITY_DIR = ring().folder("northfield")
    return checkpoints.key_of(ring().identity("northfield").public)


HISTORY = [f"entry {nth}" for nth in range(10)]


def test_what_continues_is_cosigned_and_remembered(node: notes.Key) -> None:
    origin = Origin(*HISTORY)
    for size, first in ((3, 0), (3, 0), (3, 3), (10, 3)):
        offer = origin.offer(size, first)
        answer = evidence.witness(offer)
        assert answer["lines"].count("\n") == 2
        assert notes.cosigned_by(offer["note"] + answer["lines"], node) is not None
    assert list(Witnessed.objects.order_by("size").values_list("origin", "size")) == [
        ("coordinator", 3),
        ("coordinator", 10),
    ]
    assert not Event.objects.exists()


def test_one_that_was_away_is_told_where_to_begin(node: notes.Key) -> None:
    origin = Origin(*HISTORY)
    evidence.witness(origin.offer(3, 0))
    assert evidence.witness(origin.offer(10, 0)) == {"seen": 3}
    assert evidence.witness(origin.offer(10, 5)) == {"seen": 3}
    assert "lines" in evidence.witness(origin.offer(10, 3))


@pytest.mark.parametrize(
    ("size", "other", "why"),
    [(4, False, "smaller"), (5, True, "fork"), (9, True, "inconsistent")],
)
def test_another_history_is_refused_and_on_record(size: int, other: bool, why: str, node: notes.Key) -> None:
    evidence.witness(Origin(*HISTORY).offer(5, 0))
    offered = Origin("another", *HISTORY[1:]) if other else Origin(*HISTORY)
    assert evidence.witness(offered.offer(size, min(size, 5))) == {"refused": why}
    incident = Event.objects.get()
    assert (incident.kind, incident.outcome, incident.hospital) == ("witness.refuse", why, "northfield")
    assert (incident.details["size"], incident.details["seen"]) == (size, 5)
    assert Witnessed.objects.get().size == 5
    assert "lines" in evidence.witness(Origin(*HISTORY).offer(10, 5))  # the true one goes on


@pytest.mark.parametrize("change", ["sender", "one signature", "proof", "size"])
def test_what_is_not_the_coordinators_is_refused(change: str, node: notes.Key) -> None:
    offer = Origin(*HISTORY).offer(5, 0, by="lakeside" if change == "sender" else "coordinator")
    if change == "one signature":
        offer["note"] = "".join(offer["note"].splitlines(keepends=True)[:-1])
    elif change == "proof":
        offer["proof"] = ["not base64"]
    elif change == "size":
        offer["first"] = True
    with pytest.raises(InvalidParameter):
        evidence.witness(offer)
    assert not Witnessed.objects.exists()


# --- the coordinator, over mutual TLS ---------------------------------------------------------------------------------
@asynccontextmanager
async def served(settings: Any) -> AsyncIterator[str]:
    """The node's own view behind a server with its certificate. Both ends are in this process: identities alternate."""

    async def handle(request: web.Request) -> web.Response:
        settings.IDENTITY_DIR = ring().folder("northfield")
        try:
            answer = await views.witness(
                AsyncRequestFactory().post(
                    "/node/witness", data=await request.read(), content_type="application/octet-stream"
                )
            )
        finally:
            settings.IDENTITY_DIR = ring().folder("coordinator")
        return web.Response(status=answer.status_code, body=answer.content)

    folder = ring().folder("northfield")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(folder / "ca.pem"))
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    app = web.Application()
    app.router.add_post("/node/witness", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
    await site.start()
    try:
        yield f"https://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def enrol(url: str) -> None:
    folder = ring().folder("northfield")
    certificate = x509.load_pem_x509_certificate((folder / "cert.pem").read_bytes())
    Node.objects.create(
        id="northfield",
        hospital=Hospital.objects.create(code="northfield", name="Northfield"),
        name="Northfield",
        url=url,
        served_models=[],
        public_keys=json.loads((folder / "public.json").read_text()),
        certificate_sha256=certificate.fingerprint(SHA256()).hex(),
    )


def signed(count: int) -> None:
    write(count)
    log.sequence()
    assert log.checkpoint(force=True) is not None


@pytest.mark.django_db(transaction=True)
async def test_nodes_cosign_the_coordinators_checkpoints(settings: Any) -> None:
    settings.IDENTITY_DIR = ring().folder("coordinator")
    async with served(settings) as url:
        await in_thread(enrol)(url)
        assert await cosigning.collect() == 0  # nothing is signed yet
        for count in (3, 300):
            await in_thread(signed)(count)
            assert await cosigning.collect() == 1
            assert await cosigning.collect() == 0
        assert await in_thread(Cosignature.objects.count)() == 2
        result = await in_thread(verify)()
        assert not result.findings and result.cosignatures == 2

        def told() -> int | None:
            point = Checkpoint.objects.latest("size")
            key = checkpoints.key_of(ring().identity("northfield").public)
            return notes.cosigned_by(bundle.with_cosignatures(point), key)

        assert await in_thread(told)() is not None


@pytest.mark.django_db(transaction=True)
async def test_a_history_written_anew_finds_no_witness(settings: Any) -> None:
    settings.IDENTITY_DIR = ring().folder("coordinator")

    def anew() -> None:
        """Somebody with the coordinator's keys removes the log and signs another one of the same size."""
        for table in ("cosignature", "checkpoint", "leaf", "tile", "pending", "event"):
            without_guards(f"DELETE FROM compliance_{table}")
        signed(3)

    async with served(settings) as url:
        await in_thread(enrol)(url)
        await in_thread(signed)(3)
        assert await cosigning.collect() == 1
        await in_thread(anew)()
        assert await cosigning.collect() == 0
    kinds = await in_thread(lambda: list(Event.objects.values_list("kind", "outcome")))()
    assert ("witness.refused", "fork") in kinds and ("witness.refuse", "fork") in kinds
