"""A student who equals the teacher has nothing to learn; another comes nearer, by each divergence."""

import dataclasses
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import kl_div

from ptw.errors import PtwError
from ptw.nn.head import Head
from ptw.runs import record
from ptw.train import kept, own
from ptw.train.divergence import Divergence, Present, Stored, divergences
from ptw.train.group import Group
from ptw.train.run import Run
from ptw.workspace import rooms
from ptw.workspace.check import problems
from tests.train.conftest import (
    curve_of,
    declare,
    make_workspace,
    measured_of,
    planned,
    steps_of,
    together,
    trained,
)

ALONE = Group(0, 1, torch.device("cpu"))
TOML = """
[models.big]
hf = "{big}"
[recipes.half]
recipe = "distill"
model = "tiny"
roles = {{ teacher = "big" }}
tokenizer = "words"
dataset = "chats"
eval_dataset = "chats"
[recipes.half.settings]
steps = 12
window = 128
rows = 2
learning_rate = 1e-2
eval_every = 6
checkpoint_every = 5
[recipes.same]
recipe = "distill"
model = "big"
roles = {{ teacher = "big" }}
tokenizer = "words"
dataset = "chats"
settings = {{ steps = 1, window = 128, rows = 2, learning_rate = 1e-2 }}
"""
distill = rooms.load(rooms.stock("recipes") / "distill.py")
KINDS = ("forward", "reverse", "jsd")


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that has learnt the chats a little."""
    root = make_workspace(tmp_path_factory.mktemp("teacher") / "ws")
    return trained(planned(root, "chat", steps=12)).folder / record.MODEL


@pytest.fixture
def root(tmp_path: Path, taught: Path) -> Path:
    return with_teacher(tmp_path / "ws", taught)


def with_teacher(root: Path, taught: Path) -> Path:
    return declare(make_workspace(root), TOML.format(big=taught))


@pytest.mark.parametrize("top_k", [None, 8])
@pytest.mark.parametrize("kind", KINDS)
def test_a_student_who_is_the_teacher_has_no_loss_and_no_gradient(
    root: Path, kind: str, top_k: int | None
) -> None:
    overrides = {"divergence": kind, "temperature": 2, **({} if top_k is None else {"top_k": top_k})}
    (step,) = steps_of(trained(planned(root, "same", **overrides)).folder)
    assert abs(step["loss"]) < 1e-6
    assert step["gradient_norm"] < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_a_student_comes_nearer_to_its_teacher(root: Path, kind: str) -> None:
    before, between, after = measured_of(trained(planned(root, "half", divergence=kind)).folder)
    assert before["step"] == 0
    assert before["held_out_divergence"] > between["held_out_divergence"] > after["held_out_divergence"]
    assert after["held_out_loss"] < before["held_out_loss"]


def test_the_divergences_are_the_papers() -> None:
    torch.manual_seed(0)
    student, teacher = (Head(torch.randn(70, 16, dtype=torch.float64), 67) for _ in range(2))
    mine, theirs = (torch.randn(9, 16, dtype=torch.float64) for _ in range(2))
    q, p = (head.logits(hidden)[:, :65] / 3 for head, hidden in ((student, mine), (teacher, theirs)))
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    m = (0.3 * p.exp() + 0.7 * q.exp()).log()

    def kl(of: torch.Tensor, to: torch.Tensor) -> torch.Tensor:
        return kl_div(to, of, log_target=True, reduction="none").sum(-1)

    said = {"forward": kl(p, q), "reverse": kl(q, p), "jsd": 0.3 * kl(p, m) + 0.7 * kl(q, m)}
    for kind, wanted in said.items():
        form = Divergence(kind, 3.0, 0.3)  # type: ignore[arg-type]
        found = divergences(mine, student, Present(theirs, teacher), form, 65)
        torch.testing.assert_close(found, wanted * 9, rtol=1e-10, atol=1e-12)
        short = Stored.of(Present(theirs, teacher), 65, 64, 3.0)  # one token is left for the others
        torch.testing.assert_close(divergences(mine, student, short, form, 65), found)
        few = Stored.of(Present(theirs, teacher), 65, 4, 3.0)
        assert (divergences(mine, student, few, form, 65) <= found + 1e-12).all()


def test_what_the_teacher_said_is_kept_and_a_stopped_run_goes_on_with_it(root: Path, taught: Path) -> None:
    undisturbed = trained(planned(with_teacher(root.parent / "other", taught), "half", top_k=16))
    plan = planned(root, "half", top_k=16)
    folder = plan.run_folder()
    assert trained(plan, lambda: len(steps_of(folder)) == 6).state == "stopped"
    (part,) = (folder / kept.FOLDER / "teacher").glob("*.safetensors")
    written = part.read_bytes()
    record.change(folder, state="running")
    assert curve_of(trained(plan).folder) == curve_of(undisturbed.folder)
    assert part.read_bytes() == written


def test_a_stop_while_the_teacher_speaks_loses_nothing(root: Path) -> None:
    plan = planned(root, "half", top_k=16, rows_at_once=1)
    asked = iter([False, False, True])
    assert trained(plan, lambda: next(asked, False)).state == "stopped"
    said = kept.Kept(plan.run_folder() / kept.FOLDER / "teacher")
    some = len(said)
    assert 0 < some < 12
    record.change(plan.run_folder(), state="running")
    assert trained(plan).state == "done"
    assert len(kept.Kept(said.folder)) == 12
    assert len(list(said.folder.glob("*.safetensors"))) == 2
    with pytest.raises(PtwError, match=r"data/other\.jsonl:1 is not among the 12 samples there"):
        kept.Kept(said.folder)["data/other.jsonl:1"]


def test_the_students_own_answers_are_drawn_after_the_prompts_of_the_data(root: Path) -> None:
    plan = planned(root, "half", on_policy=1)
    run = Run(plan, distill.Settings(**plan.settings), ALONE, lambda: False)
    model = run.model()
    run.optimizer()
    batch = next(run.batches())
    rows = own.answers(run, model, batch, 5)
    again = own.answers(run, model, batch, 5)
    assert torch.equal(rows.ids_BT, again.ids_BT), "the same step draws the same"
    prompts = [prompt for row in batch.rows for prompt in own.prompts_of(row)]
    assert [prompt for row in rows.rows for prompt in own.prompts_of(row)] == prompts
    for prompt, text in zip(prompts, documents_of(batch), strict=True):
        assert run.tokenizer.decode(text[len(prompt) :]).partition("<|im_end|>")[0].isdigit()
    new = [len(text) - len(p) for text, p in zip(documents_of(rows), prompts, strict=True)]
    assert all(1 <= count <= 5 for count in new)
    assert (rows.targets_BT >= 0).sum() == sum(new)


def test_a_long_prompt_cuts_no_other_answer(root: Path) -> None:
    run = Run((plan := planned(root, "half", on_policy=1)), distill.Settings(**plan.settings), ALONE, list)
    model = run.model()
    run.optimizer()
    batch = next(run.batches())
    prompts = [prompt for row in batch.rows for prompt in own.prompts_of(row)]
    longest = max(map(len, prompts))
    assert longest > min(map(len, prompts))
    room = dataclasses.replace(run.settings, window=longest + 1)
    run.settings = room  # of one token, for the longest alone
    new = [
        len(text) - len(prompt)
        for text, prompt in zip(documents_of(own.answers(run, model, batch, 5)), prompts, strict=True)
    ]
    assert max(new) > 1
    assert all(count == 1 for count, prompt in zip(new, prompts, strict=True) if len(prompt) == longest)


def documents_of(batch: Any) -> list[list[int]]:
    return [
        row.ids[end - length : end].tolist()
        for row in batch.rows
        for end, length in zip(torch.tensor(row.lengths).cumsum(0).tolist(), row.lengths, strict=True)
    ]


def test_a_student_learns_on_its_own_answers(root: Path) -> None:
    found = trained(planned(root, "half", on_policy=0.5, divergence="reverse", max_new_tokens=8))
    before, *_, after = measured_of(found.folder)
    assert after["held_out_divergence"] < before["held_out_divergence"]


def test_a_part_of_the_loss_may_be_the_datas_own(root: Path) -> None:
    soft, hard = (steps_of(trained(planned(root, "half", hard=h)).folder) for h in (0, 1))
    sft = steps_of(trained(planned(root, "chat")).folder)
    assert hard[0]["loss"] == pytest.approx(sft[0]["loss"], rel=1e-6)
    assert hard[0]["divergence"] == pytest.approx(soft[0]["loss"], rel=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("overrides", [{"top_k": 8}, {"on_policy": 1.0, "max_new_tokens": 4}])
def test_two_workers_learn_from_a_teacher(root: Path, taught: Path, overrides: dict[str, Any]) -> None:
    plan = planned(root, "half", steps=4, **overrides)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    two = steps_of(plan.run_folder())
    if "top_k" in overrides:
        other = with_teacher(root.parent / "other", taught)
        one = steps_of(trained(planned(other, "half", steps=4, **overrides)).folder)
        assert [s["loss"] for s in two] == pytest.approx([s["loss"] for s in one], rel=1e-5, abs=1e-6)
    assert two[-1]["loss"] < two[0]["loss"]


def test_what_cannot_be_is_refused(root: Path) -> None:
    wrong = (
        {"jsd_beta": 1},
        {"temperature": 0},
        {"hard": 2},
        {"top_k": 10**6},
        {"on_policy": 0.5, "top_k": 2},
    )
    for overrides in wrong:
        with pytest.raises(PtwError, match=f"settings: {next(iter(overrides))} = "):
            trained(planned(root, "half", **overrides))
    file = root / "workspace.toml"
    declared = file.read_text()
    file.write_text(declared.replace('roles = { teacher = "big" }', 'roles = { teacher = "tiny" }'))
    with pytest.raises(PtwError, match=r"model tiny \(teacher\) is a shape, which knows nothing"):
        trained(planned(root, "half"))
    for roles, said in (
        ('{ teacher = "bog" }', r"roles.teacher = .bog.: there is no \[models.bog\]; did you mean 'big'"),
        ("{}", r"roles.teacher: missing; add roles = { teacher"),
        ('{ teacher = "big", judge = "big" }', r"roles.judge = .big.: recipes/distill has no such role"),
    ):
        file.write_text(declared.replace('roles = { teacher = "big" }', f"roles = {roles}"))
        assert any(re.search(said, str(one)) for one in problems(root)), problems(root)


def test_a_teacher_of_other_tokens_is_refused_with_what_would_do(root: Path) -> None:
    chats = root / "data" / "chats.jsonl"
    rows = [json.loads(line) for line in chats.read_text().splitlines()]
    for row in rows:
        row["messages"][0]["content"] = "Zwei und zwei, wie viel ist das zusammen?"
    chats.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(PtwError, match=r"tokenizer words gives other ids than model big \(teacher\) has"):
        trained(planned(root, "half"))
