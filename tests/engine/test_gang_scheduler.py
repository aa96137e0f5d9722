"""The gang scheduler step by step: whole groups, one token each a step, nothing of a group that lost a member."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from federation.engine.limits import ARRIVAL_SECONDS, ROOM_SECONDS
from federation.node.model import prepare_model
from tests.engine.schedules import BLOCK, MARKER, TOKEN, TOKENS, Engine, Gang
from tests.flows.harness import CACHE

# vLLM's import warns of deprecations in its own dependencies.
pytestmark = [pytest.mark.engine, pytest.mark.filterwarnings("ignore::DeprecationWarning")]

WHOLE = [TOKEN] * TOKENS


@pytest.fixture(scope="session")
def model() -> Path:
    return Path(prepare_model(os.environ.get("FDROUTER_MODEL_DIR") or CACHE / "model"))


@pytest.fixture
def make(model: Path) -> Callable[..., Engine]:
    return lambda **options: Engine(model, **options)


def lockstep(engine: Engine, gang: Gang) -> None:
    """Every step gave all of the group's rows one token, or none, once one of them was past its prompt."""
    begun = False
    for planned in engine.planned:
        given = {planned.get(name, 0) for name in gang.names}
        begun = begun or given == {1}
        assert not begun or given in ({1}, {0}), engine.planned


# --- a group's way ----------------------------------------------------------------------------------------------------


def test_a_group_is_prefilled_in_one_step_and_decoded_in_lockstep(make: Callable[..., Engine]) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive()
    engine.run()
    assert gang.tokens == [WHOLE] * 5
    assert gang.ends == {"length"}
    # One step for all prompts but their last token, then one for each token of the answer.
    assert [sum(planned.values()) for planned in engine.planned[1 : TOKENS + 1]] == [5] * TOKENS
    lockstep(engine, gang)


def test_nothing_runs_before_the_group_is_whole(make: Callable[..., Engine]) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive(0, 1, 2)
    engine.step()
    assert engine.planned == [{}]
    gang.arrive(3, 4)
    engine.run()
    assert gang.tokens == [WHOLE] * 5


def test_prompts_that_take_many_steps_meet_at_the_barrier(make: Callable[..., Engine]) -> None:
    engine = make(budget=128)
    engine.chat("chat", tokens=60)
    gang = Gang(engine, "g", own=100).arrive()
    engine.chat("later", 300)
    engine.run()
    assert gang.tokens == [WHOLE] * 5
    lockstep(engine, gang)
    assert len(engine.tokens["chat"]) == 60 and len(engine.tokens["later"]) == TOKENS


def test_many_groups_and_ordinary_requests_in_one_batch(make: Callable[..., Engine]) -> None:
    engine = make(budget=4096)
    engine.chat("chat/0", tokens=30)
    gangs = [Gang(engine, f"g{index}", n, asked=index).arrive() for index, n in enumerate((3, 9, 5))]
    engine.chat("chat/1", tokens=30)
    engine.run()
    for gang in gangs:
        assert gang.tokens == [WHOLE] * gang.n
        lockstep(engine, gang)
    together = [p for p in engine.planned if all(p.get(name) == 1 for gang in gangs for name in gang.names)]
    assert len(together) == TOKENS and all(p["chat/0"] == p["chat/1"] == 1 for p in together)


def test_groups_that_do_not_fit_together_wait_for_each_other(make: Callable[..., Engine]) -> None:
    engine = make(seats=8)
    gangs = [Gang(engine, f"g{index}", asked=index).arrive() for index in range(3)]
    engine.run()
    for gang in gangs:
        assert gang.tokens == [WHOLE] * 5
    assert not any(p.get(gangs[0].names[0]) and p.get(gangs[1].names[0]) for p in engine.planned)


def test_ordinary_requests_make_room_for_a_group(make: Callable[..., Engine]) -> None:
    """The cache is too small for all: the engine evicts ordinary requests and takes them up again, never a member."""
    engine = make(blocks=32)
    chats = [f"chat/{index}" for index in range(12)]
    for name in chats:
        engine.chat(name, BLOCK - 4, tokens=60)  # each needs a second block while the group decodes
    engine.step()
    gang = Gang(engine, "g").arrive()
    engine.run(900)
    assert gang.tokens == [WHOLE] * 5
    assert all(len(engine.tokens[name]) == 60 for name in chats)
    decoding = [planned for planned in engine.planned if planned.get(gang.names[0]) == 1]
    assert any(not planned.get(name) for planned in decoding for name in chats), "there was room for all"


# --- the prefix cache -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shared", [10, BLOCK, 70, 150])
def test_private_rows_find_the_shared_beginning_in_the_step_that_computes_it(
    make: Callable[..., Engine], shared: int
) -> None:
    engine = make()
    cold, warm = Gang(engine, "cold", shared=shared).arrive(), Gang(engine, "warm", shared=shared)
    engine.step()
    public = shared // BLOCK * BLOCK
    assert [engine.found[name] for name in cold.names] == [0, public, public, public, public]
    warm.arrive()
    engine.step()
    assert {engine.found[name] for name in warm.names} == {public}
    engine.run()


@pytest.mark.parametrize("budget", [48, 96])
def test_they_find_it_too_where_it_takes_several_steps(make: Callable[..., Engine], budget: int) -> None:
    engine = make(budget=budget, seats=20)
    engine.chat("chat", 30, tokens=40)
    gang = Gang(engine, "g", shared=150).arrive()
    engine.run(400)
    assert [engine.found[name] for name in gang.names] == [0, 128, 128, 128, 128]
    assert gang.tokens == [WHOLE] * 5


@pytest.mark.parametrize(("shared", "own"), [(70, 60), (64, 200), (64, 20), (BLOCK, 4), (0, 100)])
def test_nothing_private_is_ever_found_again(make: Callable[..., Engine], shared: int, own: int) -> None:
    """Not by the same group asked again, nor by an ordinary request with a row's prompt and its answer; blocks that
    fill up with generated tokens are no exception."""
    engine = make()
    first = Gang(engine, "first", shared=shared, own=own).arrive()
    engine.run()
    again = Gang(engine, "again", shared=shared, own=own).arrive()
    for index, prompt in enumerate(first.prompts):
        engine.plain(f"plain/{index}", [*prompt, *WHOLE, *[9] * 2 * BLOCK])
        engine.run()
    names = [*again.names, *(f"plain/{index}" for index in range(first.n))]
    assert {engine.found[name] for name in names} == {shared // BLOCK * BLOCK}


def test_an_ordinary_prompt_is_found_again(make: Callable[..., Engine]) -> None:
    """What the test above relies on."""
    engine = make()
    for name in ("one", "two"):
        engine.plain(name, [8] * 100)
        engine.run()
    assert engine.found == {"one": 0, "two": 96}


# --- groups that fail -------------------------------------------------------------------------------------------------


def after(engine: Engine, gang: Gang, tokens: int) -> None:
    while len(gang.tokens[0]) < tokens:
        engine.step()


def ended(engine: Engine, gang: Gang, released: int) -> None:
    """All members ended together after ``released`` tokens; nothing is left behind, and others can go on."""
    engine.run()
    assert gang.ends <= {"abort", None}
    assert [len(tokens) for tokens in gang.tokens] == [released] * gang.n
    assert not engine.scheduler._groups and not engine.scheduler._group_of
    engine.ends.clear()
    chat, other = f"chat {gang.gid}", Gang(engine, f"other {gang.gid}").arrive()
    engine.chat(chat)
    engine.run()
    assert len(engine.tokens[chat]) == TOKENS and other.tokens == [WHOLE] * 5


@pytest.mark.parametrize("tokens", [0, 1, 5])
def test_a_member_aborted_between_steps_ends_the_group(make: Callable[..., Engine], tokens: int) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive()
    engine.step()
    after(engine, gang, tokens)
    engine.abort(gang.names[2])
    ended(engine, gang, tokens)


def test_a_member_aborted_while_a_step_runs_ends_the_group_without_that_steps_token(
    make: Callable[..., Engine],
) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive()
    after(engine, gang, 3)
    engine.step(lambda: engine.abort(gang.names[0]))
    ended(engine, gang, 3)


def test_a_preempted_member_ends_the_group_without_that_steps_token(make: Callable[..., Engine]) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive()
    after(engine, gang, 3)

    def preempt() -> None:
        victim = next(r for r in engine.scheduler.running if r.request_id == gang.names[3])
        engine.scheduler.running.remove(victim)
        engine.scheduler._preempt_request(victim, time.monotonic())

    engine.step(preempt)
    ended(engine, gang, 3)


def test_all_preempted_at_once_is_no_exception(make: Callable[..., Engine]) -> None:
    """As when the prefix cache is emptied from outside."""
    engine = make()
    gang = Gang(engine, "g").arrive()
    after(engine, gang, 2)
    engine.scheduler.reset_prefix_cache(reset_running_requests=True)
    ended(engine, gang, 2)


def test_a_member_left_out_of_a_step_ends_the_group_without_that_steps_token(make: Callable[..., Engine]) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive()
    after(engine, gang, 3)
    kept = next(r for r in engine.scheduler.running if r.request_id == gang.names[4])
    engine.scheduler.running.remove(kept)
    engine.step(lambda: engine.scheduler.running.append(kept))
    ended(engine, gang, 3)


@pytest.mark.parametrize("index", [0, 4])
def test_a_member_that_stops_alone_ends_the_group(make: Callable[..., Engine], index: int) -> None:
    """It cannot happen while the logits processor forces one token on all rows; were it to, nothing more comes out."""
    engine = make()
    gang = Gang(engine, "g").arrive()
    after(engine, gang, 2)
    engine.step(tokens={gang.names[index]: MARKER})
    assert gang.ends == {"abort", "stop"}  # at once, not when the next step shows it
    engine.run()
    assert {len(tokens) for tokens in gang.tokens} == {3}
    assert gang.ends == {"abort", "stop"}


def test_the_marker_ends_all_rows_at_once(make: Callable[..., Engine]) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive()
    after(engine, gang, 2)
    engine.step(tokens=dict.fromkeys(gang.names, MARKER))
    assert gang.ends == {"stop"} and not engine.scheduler.requests


def test_a_group_that_stays_half_arrived_is_given_up(
    make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive(0, 1, 2)
    engine.step()
    began = time.monotonic()
    monkeypatch.setattr("federation.engine.gang_scheduler.time.monotonic", lambda: began + ARRIVAL_SECONDS + 1)
    engine.step()
    assert {engine.ends.get(name) for name in gang.names[:3]} == {"abort"}
    gang.arrive(3, 4)  # the rest comes too late
    engine.run()
    assert gang.ends == {"abort"} and gang.tokens == [[]] * 5


def test_a_group_that_finds_no_room_is_given_up(make: Callable[..., Engine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = make(seats=8)
    running, waiting = Gang(engine, "a").arrive(), Gang(engine, "b", asked=2).arrive()
    after(engine, running, 2)
    began = time.monotonic()
    monkeypatch.setattr("federation.engine.gang_scheduler.time.monotonic", lambda: began + ROOM_SECONDS + 1)
    engine.run()
    assert waiting.ends == {"abort"} and waiting.tokens == [[]] * 5
    assert running.tokens == [WHOLE] * 5


@pytest.mark.parametrize("options", [{"seats": 5}, {"blocks": 22}])
def test_a_group_larger_than_the_engine_is_refused_at_once(make: Callable[..., Engine], options: Any) -> None:
    engine = make(**options)
    gang = Gang(engine, "g").arrive()
    engine.step()
    assert gang.ends == {"abort"} and engine.planned == [{}]


def test_members_that_do_not_form_a_group_are_refused(make: Callable[..., Engine]) -> None:
    def other_question(gang: Gang) -> None:
        gang.prompts[3][10] = 7_777

    def longer(gang: Gang) -> None:
        gang.prompts[3].append(1)

    def no_record(gang: Gang) -> None:
        gang.prompts = [prompt[: gang.shared + 1] for prompt in gang.prompts]

    engine = make()
    for number, change in enumerate((other_question, longer, no_record)):
        gang = Gang(engine, f"g{number}")
        change(gang)
        gang.arrive()
        engine.step()
        assert gang.ends == {"abort"}, change.__name__
    assert not any(engine.planned)


@pytest.mark.parametrize("change", [{"top_k": 50}, {"n": 6}, {"shared": 64}, {"clip": 0.5}])
def test_a_member_with_other_arguments_ends_the_group(make: Callable[..., Engine], change: dict[str, Any]) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive(0, 1, 2)
    gang.arrive(3, **change)
    gang.arrive(4)
    engine.step()
    assert gang.ends == {"abort"} and engine.planned == [{}]


def test_one_more_member_ends_a_running_group(make: Callable[..., Engine]) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive()
    after(engine, gang, 2)
    engine.add("late", gang.prompts[1], gang.params(1))
    ended(engine, gang, 2)
    assert not engine.tokens["late"]


def test_a_name_cannot_be_used_twice(make: Callable[..., Engine]) -> None:
    engine = make()
    gang = Gang(engine, "g").arrive()
    engine.run()
    again = Gang(engine, "again")
    again.gid = gang.gid
    again.arrive()
    engine.run()
    assert again.ends == {"abort"} and again.tokens == [[]] * 5


def test_a_failing_group_takes_no_other_with_it_and_gives_its_cache_back(make: Callable[..., Engine]) -> None:
    engine = make()
    whole = engine.free
    failing, other = Gang(engine, "a").arrive(), Gang(engine, "b", asked=2).arrive()
    engine.chat("chat")
    after(engine, failing, 2)
    engine.abort(failing.names[1])
    engine.run()
    assert other.tokens == [WHOLE] * 5 and len(engine.tokens["chat"]) == TOKENS
    assert [len(tokens) for tokens in failing.tokens] == [2] * 5
    assert engine.free == whole


def test_an_engine_that_would_break_groups_does_not_start(model: Path) -> None:
    engine = Engine(model)
    config = engine.config
    config.scheduler_config.async_scheduling = True
    with pytest.raises(ValueError, match="no-async-scheduling"):
        type(engine.scheduler)(
            config, engine.scheduler.kv_cache_config, engine.scheduler.structured_output_manager, block_size=BLOCK
        )
