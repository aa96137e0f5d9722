"""A real vLLM server with the plug-in; its address comes from the harness, which starts and stops it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from federation.node.engine import EngineClient
from federation.node.model import SERVED_NAME
from federation.node.prompts import PromptBuilder

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def engine_url() -> str:
    """Base address of the server under test; without one these tests fail, they do not skip."""
    url = os.environ.get("FDROUTER_TEST_ENGINE_URL")
    if not url:
        pytest.fail("FDROUTER_TEST_ENGINE_URL must name a running engine; `make test` starts one")
    return url.rstrip("/")


@pytest.fixture(scope="session")
def prompts() -> PromptBuilder:
    """Prompts with the real model's tokenizer."""
    return PromptBuilder(os.environ.get("FDROUTER_MODEL_DIR") or REPOSITORY / ".demo" / "model")


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest_asyncio.fixture
async def client(engine_url: str, prompts: PromptBuilder, session: aiohttp.ClientSession) -> EngineClient:
    return EngineClient(engine_url, SERVED_NAME, session, prompts=prompts)
