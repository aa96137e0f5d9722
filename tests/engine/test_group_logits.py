"""The logits processor alone: what it lets through, and that anything broken gets the marker and nothing else."""

from __future__ import annotations

import secrets
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from federation.engine.group import KEY, GroupArguments, Role
from privacy.dp.text_plan import plan_text

# vLLM's import warns of deprecations in its own dependencies.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

torch = pytest.importorskip("torch", reason="model libraries belong to a node")
VOCABULARY = 300
RESERVED = (0, 1, 7)
MARKER = 7
MEMBERS = 5


def arguments(role: Role, gid: str, **changes: Any) -> GroupArguments:
    plan = plan_text(epsilon=10, contexts=64, max_tokens=8)
    found = GroupArguments.of_plan(plan, gid=gid, role=role, n=MEMBERS, marker=MARKER, shared=0, reserved=RESERVED)
    return replace(found, **changes)


def params(found: GroupArguments | None) -> Any:
    return SimpleNamespace(extra_args={KEY: found.encode()} if found else None)


class Batch:
    """One group of five in rows 1 to 5 of a batch, beside an ordinary request in row 0."""

    def __init__(self, **changes: Any) -> None:
        from federation.engine.group_decoding import GroupLogits

        self.processor = GroupLogits(None, torch.device("cpu"), False)
        self.gid = secrets.token_hex(16)
        self.produced: list[list[int]] = [[] for _ in range(MEMBERS)]
        added: list[Any] = [(0, params(None), [], [])]
        for index, produced in enumerate(self.produced):
            role: Role = "private" if index else "public"
            added.append((index + 1, params(arguments(role, self.gid, **changes)), [], produced))
        self.update(added=added)
        torch.manual_seed(1)
        self.logits = torch.randn(MEMBERS + 1, VOCABULARY) * 3

    def update(self, **changes: Any) -> None:
        empty: dict[str, Any] = {"removed": [], "added": [], "moved": []}
        self.processor.update_state(SimpleNamespace(**{**empty, **changes}))

    def step(self, logits: Any = None) -> list[int]:
        """Tokens forced on rows 1 to 5; row 0 must come back as it was."""
        given = (self.logits if logits is None else logits).clone()
        found = self.processor.apply(given.clone())
        assert torch.equal(found[0], given[0])
        rows = found[1:]
        assert (torch.isfinite(rows).sum(dim=1) <= 1).all() or torch.equal(rows, given[1:])
        return [int(row) for row in rows.argmax(dim=-1)]


def test_all_rows_get_one_token_that_is_not_reserved() -> None:
    batch = Batch()
    for _ in range(8):
        tokens = batch.step()
        assert len(set(tokens)) == 1
        assert tokens[0] not in RESERVED
        for produced in batch.produced:
            produced.append(tokens[0])


def test_past_its_length_a_group_gets_the_marker() -> None:
    batch = Batch()
    for produced in batch.produced:
        produced.extend([5] * 8)
    assert set(batch.step()) == {MARKER}


def test_out_of_lockstep_is_final() -> None:
    batch = Batch()
    for produced in batch.produced[:-1]:
        produced.append(5)
    assert set(batch.step()) == {MARKER}
    batch.produced[-1].append(5)  # the row catches up: too late
    assert set(batch.step()) == {MARKER}


def test_a_missing_member_is_final_once_decoding_has_begun() -> None:
    batch = Batch()
    for produced in batch.produced:
        produced.append(5)
    batch.update(removed=[3])
    forced = batch.processor.apply(batch.logits.clone())
    assert {int(forced[row].argmax()) for row in (1, 2, 4, 5)} == {MARKER}
    batch.update(added=[(3, params(arguments("private", batch.gid)), [], [5])])
    assert set(batch.step()) == {MARKER}


def test_a_part_of_a_group_that_has_not_begun_gets_the_marker_only_for_now() -> None:
    """Prefill steps look like this; what is sampled in them is thrown away by the engine."""
    batch = Batch()
    batch.update(removed=[3])
    forced = batch.processor.apply(batch.logits.clone())
    assert {int(forced[row].argmax()) for row in (1, 2, 4, 5)} == {MARKER}
    batch.update(added=[(3, params(arguments("private", batch.gid)), [], batch.produced[2])])
    assert MARKER not in batch.step()


def test_two_public_rows_or_unlike_arguments_get_the_marker() -> None:
    batch = Batch()
    batch.update(added=[(2, params(arguments("public", batch.gid)), [], batch.produced[1])])
    assert set(batch.step()) == {MARKER}
    batch = Batch()
    batch.update(added=[(2, params(arguments("private", batch.gid, top_k=50)), [], batch.produced[1])])
    assert set(batch.step()) == {MARKER}


def test_unusable_public_logits_break_the_group() -> None:
    batch = Batch()
    broken = batch.logits.clone()
    broken[1, 3] = float("nan")
    assert set(batch.step(broken)) == {MARKER}
    assert set(batch.step()) == {MARKER}


def test_rows_are_followed_when_they_move() -> None:
    from vllm.v1.sample.logits_processor import MoveDirectionality

    batch = Batch()
    batch.update(moved=[(0, 1, MoveDirectionality.SWAP)])
    swapped = batch.processor.apply(batch.logits.clone())
    assert torch.equal(swapped[1], batch.logits[1])
    assert len({int(swapped[row].argmax()) for row in (0, 2, 3, 4, 5)}) == 1


@pytest.mark.parametrize(
    "change",
    [
        {"n": 1},
        {"n": 999},
        {"gid": "x"},
        {"role": "other"},
        {"clip": float("nan")},
        {"tau": 0.0},
        {"tokens": 0},
        {"marker": 9},
        {"reserved": (7, -1)},
        {"adjacency": "zero"},
        {"contexts": 64.0},
        {"top_k": True},
    ],
)
def test_malformed_arguments_are_refused(change: dict[str, Any]) -> None:
    good = arguments("public", "0" * 32)
    assert GroupArguments.decode(good.encode()) == good
    with pytest.raises(ValueError):  # noqa: PT011
        GroupArguments.decode(replace(good, **change).encode())
