"""A language model small enough to audit: its next-token law is a function of the last token and of one record."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from privacy.dp.decoding import TokenMechanism

Floats = npt.NDArray[np.float64]


@dataclass
class Model:
    """Log-probabilities over ``vocabulary`` tokens. Records of one ``topic`` agree on what should follow what."""

    vocabulary: int
    seed: int
    spread: float = 2.0
    _base: Floats = field(init=False)

    def __post_init__(self) -> None:
        self._base = np.random.default_rng(self.seed).normal(size=(self.vocabulary, self.vocabulary)) * self.spread

    def public(self, last: int) -> Floats:
        """Row of the question alone, after ``last``."""
        return _log(self._base[last])

    def private(self, last: int, topics: list[int]) -> Floats:
        """A row for each record, after ``last``."""
        rows = []
        for number, topic in enumerate(topics):
            generator = np.random.default_rng([self.seed, topic, last])
            pull = np.zeros(self.vocabulary)
            pull[generator.choice(self.vocabulary, 3, replace=False)] = 6.0
            own = np.random.default_rng([self.seed, last, number]).normal(size=self.vocabulary)
            rows.append(_log(self._base[last] + pull + own))
        return np.array(rows)


def answer(model: Model, mechanism: TokenMechanism, topics: list[int], tokens: int) -> list[int]:
    """A decoded answer, drawn with the product's own step."""
    found: list[int] = [0]
    for _ in range(tokens):
        found.append(mechanism.step(model.public(found[-1]), model.private(found[-1], topics)))
    return found[1:]


def _log(logits: Floats) -> Floats:
    found: Floats = logits - np.logaddexp.reduce(logits)
    return found
