"""What was drawn is learnt, and nothing else, with the environment's ids between; none is tokenised again."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ptw.data.pack import IGNORED
from ptw.errors import PtwError
from ptw.rl import rollouts
from ptw.rl.answers import Worth
from ptw.rl.caller import Caller
from ptw.rl.environment import Continuation, Environment
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.tokenizer import Tokenizer
from ptw.train.group import Group
from ptw.train.run import Run
from ptw.workspace import rooms
from ptw.workspace.manifest import read
from tests.train.conftest import planned, steps_of, trained

ALONE = Group(0, 1, torch.device("cpu"))
GUESS = '''
"""The first guess tells nothing: only who hears what it was told can be right."""
def turn(messages, row):
    return "Say 7 now." if len(messages) == 2 else None

def reward(answer, row, messages):
    assert messages[0]["content"] == row["prompt"]
    assert messages[-1] == {"role": "assistant", "content": answer}
    return float("7" in answer) if len(messages) == 4 else 0.0
'''
SETTINGS = {"environment": "guess", "rewards": "guess", "window": 128, "max_turns": 3}
grpo = rooms.load(rooms.stock("recipes") / "grpo.py")


@pytest.fixture
def game(root: Path) -> Path:
    (root / "rewards" / "guess.py").write_text(GUESS)
    return root


@pytest.fixture
def words(root: Path) -> Tokenizer:
    return open_tokenizer(read(root), "words")


def batch_of(root: Path, **settings: Any) -> tuple[Any, Any, Tokenizer]:
    """The first batch of a run, its answers, and the tokenizer."""
    plan = planned(root, "rl", **{**SETTINGS, **settings})
    run = Run(plan, grpo.Settings(**plan.settings), ALONE, lambda: False)
    model, optimizer = run.model(), run.optimizer()

    def nothing(answers: Any) -> Any:
        return [[Worth.of_whole(one, 0.0) for one in group] for group in answers]

    with rollouts.rolling_out(run, model, optimizer, nothing) as rolled:
        batch = next(run.batches(rolled.of_step))
        told = rolled.told(batch)
        torch.testing.assert_close(told.before_M, rolled.log_probs(batch).detach())
        torch.testing.assert_close(told.correction_M, torch.ones(len(told.before_M)))
        return (
            batch,
            [rolled._told[sample].answer for row in batch.rows for sample in row.samples],
            run.tokenizer,
        )


def test_only_what_was_drawn_is_learnt_and_nothing_is_tokenised_again(game: Path) -> None:
    batch, answers, words = batch_of(game)
    learnt = batch.targets_BT[batch.targets_BT != IGNORED].tolist()
    assert learnt == [id_ for answer in answers for id_ in answer.drawn.ids]
    two = [answer for answer in answers if answer.turns == 2]
    assert two
    assert len(two) < len(answers), "an answer that was cut off ends its conversation"
    (stop,) = words.stop_ids & set(two[0].drawn.ids)
    for answer in two:
        prompt = words.chat(list(answer.messages[:1]), prompt=True)
        between = Continuation(words).ids(dict(answer.messages[2]))
        end = answer.drawn.ids.index(stop) + 1
        first, second = answer.drawn.ids[:end], answer.drawn.ids[end:]
        assert answer.sample.ids.tolist() == [*prompt, *first, *between, *second]
        mask = [(prompt, False), (first, True), (between, False), (second, True)]
        assert answer.sample.learn.tolist() == [value for part, value in mask for _ in part]
        assert answer.text == words.decode(second[: len(second) - answer.ended])
    for answer in answers:
        assert answer.turns == 2 or answer.drawn.ids[-1] != stop


def test_what_is_appended_is_what_the_template_writes_of_the_whole(words: Tokenizer) -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "What is 1 and one?"},
        {"role": "assistant", "content": "2"},
        {"role": "user", "content": "And 3?"},
    ]
    going_on = Continuation(words)
    drawn = [*words.encode("2"), going_on.end]
    whole = [*words.chat(messages[:1], prompt=True), *drawn, *going_on.ids(messages[2])]
    assert whole == words.chat(messages, prompt=True)


def test_a_game_that_only_a_second_turn_can_win_is_learnt(game: Path) -> None:
    steps = steps_of(trained(planned(game, "rl", **SETTINGS, steps=16, eval_every="none")).folder)
    assert sum(s["reward"] for s in steps[-3:]) / 3 > sum(s["reward"] for s in steps[:3]) / 3 + 0.25
    assert steps[-1]["turns"] > steps[0]["turns"]
    assert max(abs(step["gap"] - 1) for step in steps) < 1e-4


def test_a_conversation_ends_where_the_window_has_no_room(game: Path) -> None:
    _, answers, _ = batch_of(game, window=40)
    assert any(answer.no_room for answer in answers)
    for answer in answers:
        assert answer.turns == 1
        assert len(answer.sample.ids) <= 40


def test_no_more_turns_than_may_be(game: Path) -> None:
    (game / "rewards" / "guess.py").write_text(
        "def turn(messages, row):\n    return {'role': 'user', 'content': 'On.'}\n"
        "def reward(answer, row):\n    return 0.0\n"
    )
    for most in (1, 2):
        _, answers, _ = batch_of(game, max_turns=most)
        assert max(answer.turns for answer in answers) == most


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("1 / 0", r"guess\.py: data/asked\.jsonl:\d+: ZeroDivisionError"),
        ("return 3", r"guess\.py: data/asked\.jsonl:\d+: turn gave int; it gives a text, a message, or None"),
        (
            "return {'content': 'x'}",
            r"guess\.py: data/asked\.jsonl:\d+: message 1 must be an object with a `role`",
        ),
    ],
)
def test_what_an_environment_does_wrong_is_named(game: Path, words: Tokenizer, body: str, said: str) -> None:
    (game / "rewards" / "guess.py").write_text(f"def turn(messages, row):\n    {body}\n")
    caller = Caller(20)
    environment = Environment(game, "guess", words, caller)
    with pytest.raises(PtwError, match=said):
        environment.turn([{"role": "assistant", "content": "x"}], {}, "data/asked.jsonl:3")
    caller.close()


def test_an_environment_without_a_turn_is_refused(game: Path, words: Tokenizer) -> None:
    with pytest.raises(PtwError, match=r"digits\.py: has no `def turn\(messages: list\[dict\], row: dict\)"):
        Environment(game, "digits", words, Caller(20))
    with pytest.raises(PtwError, match=r"settings: environment: there is no rewards/luck\.py"):
        Environment(game, "luck", words, Caller(20))
