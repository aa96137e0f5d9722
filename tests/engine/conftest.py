"""A real vLLM server with the plug-in; its address comes from the harness, which starts and stops it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator

import aiohttp
import pytest
import pytest_asyncio

from federation.node.engine import EngineClient
from federation.node.model import SERVED_NAME, prepare_model
from federation.node.prompts import PromptBuilder
from tests.flows.harness import CACHE, Network


@pytest.fixture(scope="session")
def engine_url(request: pytest.FixtureRequest) -> str:
    """Base address of a running engine: ``FDROUTER_TEST_ENGINE_URL``, or that of the flow tests' network."""
    url = os.environ.get("FDROUTER_TEST_ENGINE_URL")
    if url:
        return url.rstrip("/")
    network: Network = request.getfixturevalue("network")
    return network.stack.engine_url


@pytest.fixture(scope="session")
def prompts() -> PromptBuilder:
    """Prompts with the real model's tokenizer; the model is prepared once for all runs."""
    return PromptBuilder(prepare_model(os.environ.get("FDROUTER_MODEL_DIR") or CACHE / "model"))


@pytest_asyncio.fixture
async def session() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as opened:
        yield opened


@pytest_asyncio.fixture
async def client(engine_url: str, prompts: PromptBuilder, session: aiohttp.ClientSession) -> EngineClient:
    return EngineClient(engine_url, SERVED_NAME, session, prompts=prompts)
