"""Rows of a text of several hospitals on a real engine: the asked numbers, and nothing of one row in another."""

from __future__ import annotations

import aiohttp
import numpy as np
import pytest
import pytest_asyncio

from federation.node.model import SERVED_NAME
from federation.node.prompts import PromptBuilder
from federation.node.scoring import ScoringClient, fresh_salt
from privacy.dp.across_text import MOST_CANDIDATES
from privacy.dp.decoding import Floats

pytestmark = pytest.mark.engine

QUESTION = "Which side effect did patients on velorapine develop?"
RECORDS = [f"Woman, born 19{n}. Velorapine, day {n}: developed a dry cough." for n in range(50, 61)]


@pytest_asyncio.fixture
async def scorer(engine_url: str, prompts: PromptBuilder, session: aiohttp.ClientSession) -> ScoringClient:
    return ScoringClient(engine_url, SERVED_NAME, session, prompts=prompts)


async def two_steps(scorer: ScoringClient, records: list[str], tokens: list[int]) -> Floats:
    """Shape (steps, rows, tokens): of the first token, and of the second with the first in the cache."""
    group = scorer.prompts.group(QUESTION, records, len(records))
    rows, salts = [group.public, *group.private], [fresh_salt() for _ in range(len(records) + 1)]
    first = await scorer.at(rows, tokens, salts)
    second = await scorer.at([[*row, tokens[0]] for row in rows], tokens, salts)
    return np.stack([first, second])


async def test_the_numbers_of_given_tokens_are_those_of_the_likeliest(scorer: ScoringClient) -> None:
    public = scorer.prompts.group(QUESTION, [], 1).public
    ids, values = await scorer.likeliest(public, fresh_salt())
    assert MOST_CANDIDATES - 20 <= len(ids) <= MOST_CANDIDATES and values == sorted(values, reverse=True)
    found = await scorer.at([public], ids, [fresh_salt()])
    assert found[0].tolist() == pytest.approx(values, abs=0.02)
    assert 0.5 < float(np.exp(found).sum()) <= 1.001


async def test_records_speak_for_what_they_say(scorer: ScoringClient) -> None:
    ids = scorer.prompts.tokenizer(" dry rash cough nausea", add_special_tokens=False).input_ids
    steps = await two_steps(scorer, RECORDS, ids)
    public, private = steps[0][0], steps[0][1:]
    assert (private[:, 0] - public[0]).mean() > 1.0, "dry"


async def test_another_record_moves_no_other_row(scorer: ScoringClient) -> None:
    tokens = [*range(300, 364)]
    one = await two_steps(scorer, RECORDS, tokens)
    two = await two_steps(scorer, [*RECORDS[:4], "An entirely different record.", *RECORDS[5:]], tokens)
    others = [n for n in range(len(RECORDS) + 1) if n != 5]
    assert not np.allclose(one[:, 5], two[:, 5], atol=0.1)
    worst = float(np.abs(one[:, others] - two[:, others]).max())
    assert worst == 0.0, worst
