"""No earlier item changes what a later rank is worth, titles weigh the same, and lists become better."""

import random
from math import log2
from pathlib import Path

import numpy as np
import pytest
import tokenizers
import torch
from tokenizers import decoders, normalizers, pre_tokenizers
from tokenizers.models import BPE
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.rl.answers import Answer, per_action
from ptw.rl.engine import Drawn
from ptw.rl.ranks import Relevances, catalogue_of, listed, returns
from ptw.rl.titles import plain
from ptw.runs import record
from ptw.tokens.declared import open_tokenizer
from ptw.tokens.tokenizer import Tokenizer
from ptw.train import launch
from ptw.workspace import rooms
from ptw.workspace.manifest import read
from tests.train.conftest import declare, make_workspace, measured_of, planned, steps_of, trained

TITLES = ("Up", "Heat", "Alien", "Brazil", "Jaws", "Big")
TEACH = """
[datasets.lists]
source = "data/lists.jsonl"
format = "chat"
[tokenizers.films]
learn_from = "lists"
vocab_size = 300
[recipes.teach]
recipe = "sft"
model = "tiny"
tokenizer = "films"
dataset = "lists"
settings = { steps = 40, window = 128, rows = 4, learning_rate = 1e-2 }
"""
RL = """
[models.taught]
hf = "{taught}"
[datasets.asked]
source = "data/asked.jsonl"
format = "prompt"
[recipes.rank]
recipe = "rank_grpo"
model = "taught"
tokenizer = "films"
dataset = "asked"
eval_dataset = "asked"
[recipes.rank.settings]
engine = "ptw"
rewards = ["hits"]
catalogue = "data/titles.txt"
titles = 3
steps = 16
rows = 4
answers = 16
window = 96
max_new_tokens = 24
learning_rate = 2e-3
schedule = "constant"
eval_every = 100
"""
rank_grpo = rooms.load(rooms.stock("recipes") / "rank_grpo.py")
ROW = {"relevant": ["Heat", "Jaws"]}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose model answers with three titles, a line each."""
    draw = random.Random(0)
    lists = [
        {
            "messages": [
                {"role": "user", "content": f"Films for {n}?"},
                {"role": "assistant", "content": "\n".join(draw.sample(TITLES, 3))},
            ]
        }
        for n in range(60)
    ]
    root = declare(make_workspace(tmp_path_factory.mktemp("films") / "ws"), TEACH, lists=lists)
    asked = [{"prompt": f"Films for {n}?", "relevant": ["Heat", "Jaws"]} for n in range(12)]
    made = trained(planned(root, "teach")).folder / record.MODEL
    (root / "data" / "titles.txt").write_text("\n".join(TITLES))
    return declare(root, RL.format(taught=made), asked=asked)


@pytest.fixture(scope="module")
def tokenizer(taught: Path) -> Tokenizer:
    return open_tokenizer(read(taught), "films")


def answer_of(tokenizer: Tokenizer, text: str, ended: bool = True) -> Answer:
    ids = [*tokenizer.encode(text), *([min(tokenizer.stop_ids)] if ended else [])]
    sample = Sample("", np.array(ids, np.int32), np.ones(len(ids), bool))
    return Answer(sample, "", ROW, text, Drawn(tuple(ids), (0.0,) * len(ids)), {}, ended)


@pytest.mark.parametrize("ended", [True, False])
def test_each_token_is_of_the_title_of_its_line(tokenizer: Tokenizer, ended: bool) -> None:
    lines = ["1. Up\n", "\n2) HEAT\n", "- Alien\n"]
    answer = answer_of(tokenizer, "".join(lines), ended)
    text = [tokenizer.decode([id_]) for id_ in tokenizer.encode("".join(lines))]
    whole, cut = listed(answer, tokenizer, 3), listed(answer, tokenizer, 1)
    assert whole.titles == ["up", "heat", "alien"]
    assert cut.titles == ["up"]
    for found, parts in ((whole, lines), (cut, [lines[0], lines[1] + lines[2]])):
        for action, part in enumerate(parts):
            assert "".join(t for t, at in zip(text, found.action_L, strict=False) if at == action) == part
        assert len(found.action_L) == len(text) + ended
        assert found.action_L[-1] == len(parts) - 1 + ended
    assert listed(answer_of(tokenizer, "\n\n", ended), tokenizer, 3).titles == []


def test_titles_are_read_whole_whatever_their_tokens_are(tokenizer: Tokenizer) -> None:
    text = "Amélie 天使\n 2. Śmierć i życie\n\nÜber 😀"
    assert len(tokenizer.encode("天")) > 1  # bytes
    wanted = [plain(line) for line in text.split("\n") if line]
    assert listed(answer_of(tokenizer, text), tokenizer, 5).titles == wanted
    pieces = sentence_pieces(text)
    alone = [pieces.decode([id_]) for id_ in pieces.encode(text)]
    assert "".join(alone) != pieces.decode(pieces.encode(text))  # they lose their blanks
    assert listed(answer_of(pieces, text), pieces, 5).titles == wanted


def sentence_pieces(text: str) -> Tokenizer:
    """Made and decoded as Llama 2's: a blank is part of what follows it; the first one is taken away."""
    made = tokenizers.Tokenizer(BPE())
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    made.decoder = decoders.Sequence(parts)
    trainer = BpeTrainer(vocab_size=50, special_tokens=["</s>"], show_progress=False)
    made.train_from_iterator([text], trainer)
    return Tokenizer(PreTrainedTokenizerFast(tokenizer_object=made), "pieces", stop_ids=frozenset({0}))


def test_a_list_learns_to_end_where_it_was_asked_to(tokenizer: Tokenizer) -> None:
    ahead = torch.tensor([0.5, -1.0])
    for text, expected in (
        ("Up\nHeat", [0.5, -1.0, 0.1]),
        ("Up\nHeat\nBig\nJaws", [0.5, -1.0, -0.1, 0.0]),
        ("Up", [0.5, -0.1]),
        ("", [0.0, -0.1]),
    ):
        one = listed(answer_of(tokenizer, text), tokenizer, 2)
        worth = one.worth(ahead[: len(one.titles)], 0.1)
        assert worth.actions == len(expected)
        per = per_action(worth.advantage_L, worth.action_L)
        assert per.tolist() == pytest.approx(expected)
        assert (
            not listed(answer_of(tokenizer, text + "\n", ended=False), tokenizer, 2)
            .worth(ahead[: len(one.titles)], 0.0)
            .advantage_L.isnan()
            .any()
        )


def test_returns_by_hand_and_no_earlier_item_changes_a_later_one() -> None:
    with Relevances(rooms.stock("rewards").parent, ["hits"], 60) as relevances:
        relevance = relevances.of(ROW, "data/asked.jsonl:1")
        found = returns(["up", "heat", "jaws"], relevance, None, 0.0)
        assert found == pytest.approx([1 / log2(3) + 1 / 2, 1 / log2(3) + 1 / 2, 1 / 2])
        for first in ("big", "nosuch", ""):
            assert returns([first, "heat", "jaws"], relevance, None, 0.0)[1:] == found[1:]
        catalogue = {"heat", "up"}
        with_penalty = returns(["heat", "jaws", "nosuch"], relevance, catalogue, -0.5)
        assert with_penalty == pytest.approx([1.0 - 1.0, -1.0, -0.5])


def test_no_rank_gains_by_saying_a_title_again() -> None:
    with Relevances(rooms.stock("rewards").parent, ["hits"], 60) as relevances:
        relevance = relevances.of(ROW, "data/asked.jsonl:1")
        assert returns(["heat", "heat"], relevance, None, 0.0) == [1.0, 0.0]
        again = returns(["heat", "heat", "jaws"], relevance, None, 0.0)
        other = returns(["heat", "jaws", "heat"], relevance, None, 0.0)
        assert other[0] > again[0]
        assert other[1] > again[1]


def test_ranks_are_compared_with_the_same_rank_of_other_lists_which_may_have_none() -> None:
    found = rank_grpo.advantages([[1.0, 1.0, 5.0], [0.0, 0.0], [2.0], []], 3)
    assert [len(one) for one in found] == [3, 2, 1, 0]
    second, third = 0.5, 2.5
    spread = ((0.25**2 + 0.75**2 + 1.25**2 + 0.75**2) / 3) ** 0.5
    assert found[0].tolist() == pytest.approx([0.25 / spread, 0.75 / second, 3.75 / third], abs=1e-5)
    assert found[1].tolist() == pytest.approx([-0.75 / spread, -0.25 / second], abs=1e-5)
    assert found[2].tolist() == pytest.approx([1.25 / spread], abs=1e-5)


def test_long_and_short_titles_weigh_the_same() -> None:
    action = torch.tensor([0, 1, 1, 1, 1, 2])
    change = torch.tensor([0.3, *[0.3] * 4, -0.1], dtype=torch.float64, requires_grad=True)
    per = per_action(change, action)
    assert per.tolist() == pytest.approx([0.3, 0.3, -0.1])
    settings = rank_grpo.Settings(rewards=["hits"], clip_high=0.5)
    loss = rank_grpo.surrogate(per, torch.tensor([1.0, 1.0, 1.0], dtype=torch.float64), settings)
    assert loss[0] == loss[1]
    loss.sum().backward()
    assert change.grad is not None
    assert change.grad[1:5].sum() == pytest.approx(change.grad[0].item())
    assert per_action(change, action + 1)[0] == 0  # an action that no token is of


@pytest.mark.parametrize(("weigh", "pull"), [("titles", 0.5 - 1 / 8), ("tokens", 0.0)])
def test_where_tokens_weigh_the_same_nothing_pulls_to_shorter_titles(weigh: str, pull: float) -> None:
    """A hit of two tokens and a miss of eight, as much ahead as behind, both with an end of the title."""
    action = torch.tensor([0] * 2 + [1] * 8)
    change = torch.zeros(10, dtype=torch.float64, requires_grad=True)
    ahead = torch.tensor([1.0, -1.0], dtype=torch.float64)
    settings = rank_grpo.Settings(rewards=["hits"], weigh=weigh)
    loss = rank_grpo.surrogate(per_action(change, action), ahead, settings)
    (rank_grpo.weights(action, 2, 10, settings) * loss).sum().backward()
    assert change.grad is not None
    ends = -change.grad[[1, 9]]  # what each step adds to the ends' log-probabilities
    scale = {"titles": 2, "tokens": 10}[weigh]
    assert (ends.sum() * scale).item() == pytest.approx(pull)
    nothing = torch.empty(0, dtype=torch.int64)
    assert len(rank_grpo.weights(nothing, 2, 10, settings)) == 0  # of a worker without a row


def test_lists_become_better(taught: Path) -> None:
    found = trained(planned(taught, "rank"))
    steps, (before, after) = steps_of(found.folder), measured_of(found.folder)
    assert after["held_out_reward"] > before["held_out_reward"] + 0.15
    assert steps[-1]["ended"] > 0.9
    assert max(abs(step["gap"] - 1) for step in steps) < 1e-4


def test_lists_that_may_not_leave_their_reference_stay_near_it(taught: Path) -> None:
    far = {}
    for kl in (1e-6, 1.0):
        steps = steps_of(trained(planned(taught, "rank", kl=kl, steps=5)).folder)
        assert steps[0]["kl"] == pytest.approx(0, abs=1e-7)
        far[kl] = steps[-1]["kl"]
    assert 0 < far[1.0] < 0.5 * far[1e-6]


def test_a_title_may_begin_with_a_number() -> None:
    assert plain(" 3.  2001: A Space Odyssey ") == plain("2001: A Space Odyssey") == "2001: a space odyssey"
    assert plain("- 2.0") == "2.0"
    assert plain("12) Up") == plain("* Up") == "up"


def test_what_it_lacks_is_said(taught: Path) -> None:
    with pytest.raises(PtwError, match=r"catalogue = data/none\.txt: it can't be read"):
        trained(planned(taught, "rank", catalogue="data/none.txt"))
    with pytest.raises(PtwError, match=r"number\.py: has no `def relevance"):
        trained(planned(taught, "rank", rewards="number"))
    with pytest.raises(PtwError, match="settings: titles = 0: say how many a list has"):
        trained(planned(taught, "rank", titles=0))
    with pytest.raises(PtwError, match="settings: length = -1: it must be 0 or more"):
        trained(planned(taught, "rank", length=-1))
    with pytest.raises(PtwError, match=r"there is no rewards/luck\.py; there are hits, json_keys"):
        trained(planned(taught, "rank", rewards="luck"))
    assert catalogue_of(taught, "data/titles.txt") == {plain(title) for title in TITLES}
    odd = ["Before\u2028After", "A\x85B"]  # what Python alone takes for ends of lines
    (taught / "data" / "odd.txt").write_text("\n".join(odd), encoding="utf-8")
    assert catalogue_of(taught, "data/odd.txt") == {plain(title) for title in odd}


def test_a_run_goes_on_with_the_same_catalogue_only(taught: Path) -> None:
    run, titles = launch.begun(read(taught), "rank", {}, resume=False), taught / "data" / "titles.txt"
    assert f"catalogue data/{titles.name}" in run.digests
    assert "reward hits" in run.digests
    record.change(run.folder, state="stopped")
    assert launch.begun(read(taught), "rank", {}, resume=True).folder == run.folder
    before = titles.read_text()
    titles.write_text(before + "\nSolaris")
    with pytest.raises(PtwError, match=r"the content of catalogue data/titles\.txt"):
        launch.begun(read(taught), "rank", {}, resume=True)
    titles.write_text(before)


def test_a_list_has_no_turns(taught: Path) -> None:
    with pytest.raises(PtwError, match="settings: environment = hits: a list is one answer"):
        trained(planned(taught, "rank", environment="hits"))
