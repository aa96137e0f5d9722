"""The logits processor alone, under both runners: what it lets through, and that anything broken gets the marker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from federation.engine.group import GroupArguments
from tests.engine.batches import (
    DOOR,
    MARKER,
    RESERVED,
    TOKENS,
    Group,
    V1Batch,
    V2Batch,
    arguments,
    forced,
    noise,
    params,
)

# vLLM's import warns of deprecations in its own dependencies.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

Batch = V1Batch | V2Batch


@pytest.fixture(params=[V1Batch, V2Batch], ids=["v1", "v2"])
def batch(request: pytest.FixtureRequest) -> Batch:
    """An ordinary request is in it already."""
    made: Batch = request.param()
    made.add("chat", params(None))
    return made


def step(group: Group, logits: dict[str, Any] | None = None) -> list[int | None]:
    """Tokens forced on the group's rows that are in the batch; the ordinary row must come back as it was."""
    import torch

    given = noise(["chat", *group.names]) if logits is None else logits
    found = group.batch.step(given)
    assert torch.equal(found["chat"], given["chat"])
    return [forced(found[name]) for name in group.names if name in found]


def test_the_door_gives_each_runner_its_own_adapter() -> None:
    from vllm.v1.sample.logits_processor import LogitsProcessor as V1Interface
    from vllm.v1.worker.gpu.sample.logits_processor import LogitsProcessor as V2Interface

    first, second = V1Batch().adapter, V2Batch().adapter
    assert isinstance(first, V1Interface) and not isinstance(first, V2Interface)
    assert isinstance(second, V2Interface) and not isinstance(second, V1Interface)


def test_both_doors_refuse_what_a_member_may_not_ask_for() -> None:
    from vllm.exceptions import VLLMValidationError
    from vllm.v1.sample.logits_processor import validate_logits_processors_parameters
    from vllm.v1.worker.gpu.sample.logits_processor import build_custom_logits_processors_params_validator

    second = build_custom_logits_processors_params_validator([DOOR])
    good, bad = params(arguments("public", "0" * 32)), params(arguments("public", "0" * 32), logprobs=1)
    validate_logits_processors_parameters([DOOR], good)
    second(good)
    for door in (lambda given: validate_logits_processors_parameters([DOOR], given), second):
        with pytest.raises(VLLMValidationError):
            door(bad)


def test_all_rows_get_one_token_that_is_not_reserved(batch: Batch) -> None:
    group = Group(batch)
    for _ in range(TOKENS):
        (token,) = set(step(group))
        assert token is not None and token not in RESERVED
        group.give(token)


def test_past_its_length_a_group_gets_the_marker(batch: Batch) -> None:
    group = Group(batch)
    for _ in range(TOKENS):
        group.give(5)
    assert set(step(group)) == {MARKER}


def test_out_of_lockstep_is_final(batch: Batch) -> None:
    group = Group(batch)
    group.give(5, but=4)
    assert set(step(group)) == {MARKER}
    batch.give(group.names[4], 5)  # the row catches up: too late
    assert set(step(group)) == {MARKER}


def test_a_missing_member_is_final_once_decoding_has_begun(batch: Batch) -> None:
    group = Group(batch)
    group.give(5)
    batch.remove(group.names[3])
    assert step(group) == [MARKER] * 4
    batch.add(group.names[3], group.member(3), produced=1)
    assert set(step(group)) == {MARKER}


def test_a_part_of_a_group_that_has_not_begun_gets_the_marker_only_for_now(batch: Batch) -> None:
    """Prefill steps look like this; what is sampled in them is thrown away by the engine."""
    group = Group(batch)
    batch.remove(group.names[3])
    assert step(group) == [MARKER] * 4
    batch.add(group.names[3], group.member(3))
    assert MARKER not in step(group)


def test_two_public_rows_or_unlike_arguments_get_the_marker(batch: Batch) -> None:
    group = Group(batch)
    for changed in (group.member(1, "public"), group.member(1, top_k=50)):
        batch.remove(group.names[1])
        batch.add(group.names[1], changed)
        assert set(step(group)) == {MARKER}
    batch.remove(group.names[1])
    batch.add(group.names[1], group.member(1))
    assert MARKER not in step(group)  # it had not begun, so that nothing is lost


def test_unusable_public_logits_break_the_group(batch: Batch) -> None:
    group = Group(batch)
    broken = noise(["chat", *group.names])
    broken[group.names[0]][3] = float("nan")
    assert set(step(group, broken)) == {MARKER}
    assert set(step(group)) == {MARKER}


def test_unusable_private_logits_do_not(batch: Batch) -> None:
    """Otherwise a record could say something by breaking its group."""
    import torch

    group = Group(batch)
    odd = noise(["chat", *group.names])
    odd[group.names[2]][:] = float("nan")
    odd[group.names[3]][:] = -torch.inf
    (token,) = set(step(group, odd))
    assert token is not None and token not in RESERVED


def test_many_groups_and_ordinary_requests_share_a_batch(batch: Batch) -> None:
    """Each group has its own token; a broken one takes no other with it; ordinary rows stay as they are."""
    import torch

    groups = [Group(batch, name, n) for name, n in (("a", 3), ("b", 9), ("c", 5))]
    batch.add("other", params(None))
    names = ["chat", "other", *(name for group in groups for name in group.names)]
    groups[1].give(5, but=2)
    tokens = []
    for seed in range(12):
        given = noise(names, seed)
        found = batch.step(given)
        assert all(torch.equal(found[name], given[name]) for name in ("chat", "other"))
        by_group = [{forced(found[name]) for name in group.names} for group in groups]
        assert all(len(got) == 1 for got in by_group)
        assert by_group[1] == {MARKER}
        assert not (by_group[0] | by_group[2]) & set(RESERVED)
        tokens.append(by_group)
    assert any(got[0] != got[2] for got in tokens)


def test_rows_are_followed_when_they_move(batch: Batch) -> None:
    group = Group(batch)
    batch.swap("chat", group.names[0])
    batch.swap(group.names[2], group.names[4])
    assert len(set(step(group))) == 1
    assert MARKER not in step(group)
    batch.remove("chat")  # the last row takes its place
    batch.add("chat", params(None))
    assert MARKER not in step(group)


def test_the_place_of_a_member_is_an_ordinary_requests_afterwards(batch: Batch) -> None:
    import torch

    group = Group(batch)
    batch.remove(group.names[4])
    batch.add("next", params(None))
    given = noise(["chat", "next", *group.names])
    assert torch.equal(batch.step(given)["next"], given["next"])


def test_v2_leaves_rows_alone_that_are_still_in_their_prompt() -> None:
    batch = V2Batch()
    batch.add("chat", params(None))
    group = Group(batch)
    for name in group.names:
        batch.computed[name] -= 2
    assert set(step(group)) == {None}  # nothing is drawn, and the engine samples nothing here
    for name in group.names:
        batch.computed[name] += 2
    assert MARKER not in step(group)


def test_v2_breaks_groups_with_several_rows_a_request() -> None:
    """Drafts of speculative decoding, which the scheduler refuses: no row may be taken for another."""
    from types import SimpleNamespace

    import torch

    batch = V2Batch()
    batch.add("chat", params(None))
    group = Group(batch)
    slots = [batch.state.req_id_to_index[name] for name in ["chat", *group.names]]
    doubled = torch.tensor([slot for slot in slots for _ in range(2)])
    logits = torch.randn(len(doubled), 300)
    ctx = SimpleNamespace(idx_mapping_np=slots, expanded_idx_mapping=doubled, seq_lens_upper_bound_np=[])
    found = batch.adapter.apply(logits.clone(), ctx)
    assert torch.equal(found[:2], logits[:2])
    assert {forced(row) for row in found[2:]} == {MARKER}
    assert set(step(group)) == {MARKER}


@pytest.mark.parametrize(
    "change",
    [
        {"logprobs": 5},
        {"prompt_logprobs": 1},
        {"logprob_token_ids": [4]},
        {"max_tokens": TOKENS + 1},
        {"n": 2},
        {"min_tokens": 1},
        {"logit_bias": {5: 3.0}},
        {"stop_token_ids": []},
        {"stop": ["."]},
        {"bad_words": ["cough"]},
        {"allowed_token_ids": [4, 5]},
        {"presence_penalty": 0.5},
        {"repetition_penalty": 1.1},
        {"top_k": 5},
        {"min_p": 0.1},
        {"seed": 3},
        {"thinking_token_budget": 4},
        {"ignore_eos": True},
        {"extra_args": {"dp": "{}"}},
        {"extra_args": {"dp": "no json"}},
    ],
    ids=lambda change: next(iter(change)),
)
def test_a_member_may_ask_for_nothing_else(change: dict[str, Any]) -> None:
    from federation.engine.draws import check_params

    with pytest.raises(ValueError):  # noqa: PT011
        check_params(params(arguments("public", "0" * 32), **{"temperature": 0.7, **change}))


def test_what_a_member_needs_is_let_in_and_what_costs_more_is_not() -> None:
    from vllm.sampling_params import StructuredOutputsParams

    from federation.engine.draws import check_params

    good = arguments("public", "0" * 32)
    check_params(params(good))
    check_params(params(good, detokenize=False, temperature=0.7))
    check_params(params(None, logprobs=5))
    with pytest.raises(ValueError):  # noqa: PT011
        check_params(params(good, structured_outputs=StructuredOutputsParams(regex="a+")))
    with pytest.raises(ValueError):  # noqa: PT011  (a clip ten times as wide costs more than is stated)
        check_params(params(replace(good, clip=good.clip * 10)))


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
        {"shared": -1},
    ],
)
def test_malformed_arguments_are_refused(change: dict[str, Any]) -> None:
    good = arguments("public", "0" * 32)
    assert GroupArguments.decode(good.encode()) == good
    with pytest.raises(ValueError):  # noqa: PT011
        GroupArguments.decode(replace(good, **change).encode())
