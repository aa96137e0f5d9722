"""The fixture of the stack, for the conftest modules that offer it. One stack a run, whoever asks first."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_django.plugin import DjangoDbBlocker

from tests.federation.api.stack import Person, Stack

_running: list[Stack] = []


@pytest.fixture(scope="session")
def _processes(django_db_blocker: DjangoDbBlocker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    if not _running:
        with django_db_blocker.unblock():
            _running.append(Stack(tmp_path_factory.mktemp("stack")))
    stack = _running[0]
    yield stack
    stack.stop()


@pytest.fixture
def stack(_processes: Stack, django_db_blocker: DjangoDbBlocker) -> Iterator[Stack]:
    """The stack with its network. Rows stay: each test makes people of its own."""
    with django_db_blocker.unblock(), _processes.database.opened():
        _processes.ensure_network()
        _processes.backend.gate.clear()
        yield _processes
        _processes.backend.gate.set()


@pytest.fixture
def ada(stack: Stack) -> Person:
    """A clinician."""
    return stack.person()
