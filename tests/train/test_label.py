"""A teacher labels each row once: however often it is killed, and on however many workers, to the byte."""

import dataclasses
import json
import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from ptw.errors import PtwError
from ptw.evals.answer import answer
from ptw.nn.decode import generate
from ptw.runs import lines, record, report
from ptw.runs.open import open_named
from ptw.tokens.chat import Message
from ptw.train import launch, worker
from ptw.train.labels import run as labels
from ptw.train.labels.rows import Text, batches, pending
from ptw.train.labels.store import Stage
from ptw.train.plan import Plan
from ptw.workspace.check import problems
from ptw.workspace.manifest import read
from tests.processes import is_gone
from tests.train.conftest import (
    declare,
    environment,
    make_workspace,
    measured_of,
    planned,
    steps_of,
    together,
    trained,
)
from tests.train.served import serving
from tests.train.test_distill import ALONE
from tests.train.test_launch import processes_of

TOML = """
[models.big]
hf = "{big}"
[models.judge]
hf = "{judge}"
[datasets.questions]
source = "data/questions.jsonl"
format = "prompt"
[datasets.answered]
source = "data/answered.jsonl"
format = "chat"
[clusters.pool]
workers = 2
replicas = 2
[recipes.answers]
recipe = "label"
model = "big"
tokenizer = "words"
dataset = "questions"
settings = {{ max_new_tokens = 12, window = 96, rows_at_once = 3, cut_off = "keep" }}
[recipes.best]
recipe = "label"
model = "big"
roles = {{ judge = "judge" }}
tokenizer = "words"
dataset = "questions"
[recipes.best.settings]
max_new_tokens = 12
window = 96
rows_at_once = 4
cut_off = "keep"
temperature = 1.0
answers = 3
[recipes.scores]
recipe = "label"
model = "judge"
tokenizer = "words"
dataset = "answered"
settings = {{ window = 96, rows_at_once = 3 }}
"""
PAIRS = """
[datasets.pairs]
source = "data/pairs.jsonl"
format = "preference"
[models.start]
hf = "{big}"
[recipes.prefer]
recipe = "reward"
model = "start"
tokenizer = "words"
dataset = "pairs"
settings = {{ steps = 4, window = 128, rows = 3, learning_rate = 3e-3 }}
"""
FAR = '[models.far]\n{}\n[recipes.best]\nrecipe = "label"\nmodel = "far"'
ASKED = {"role": "user", "content": "2?"}
QUESTIONS = 23
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """One that answers, and one that prefers some answers to others."""
    root = make_workspace(tmp_path_factory.mktemp("teacher") / "ws")
    big = trained(planned(root, "chat", steps=25)).folder / record.MODEL
    pairs = [{"prompt": f"{n}?", "chosen": str(n + 1), "rejected": "No. " * (1 + n % 3)} for n in range(24)]
    declare(root, PAIRS.format(big=big), pairs=pairs)
    return {"big": big, "judge": trained(planned(root, "prefer")).folder / record.MODEL}


@pytest.fixture
def root(tmp_path: Path, models: dict[str, Path]) -> Path:
    return with_questions(tmp_path / "ws", models)


def with_questions(root: Path, models: dict[str, Path]) -> Path:
    words = ("one", "two and two", "a number that is much longer than the others are")
    questions: list[dict[str, Any]] = [
        {"id": n, "prompt": f"What is {n} and {words[n % 3]}?"} for n in range(QUESTIONS)
    ]
    questions[5]["prompt"] = [
        {"role": "system", "content": "Be one."},
        {"role": "user", "content": "What is 5 and one?"},
    ]
    answered = [
        {
            "messages": [
                {"role": "user", "content": f"{n}?"},
                {"role": "assistant", "content": "No. " * (n % 4 + 1)},
            ]
        }
        for n in range(10)
    ]
    return declare(make_workspace(root), TOML.format(**models), questions=questions, answered=answered)


def labels_of(folder: Path, name: str = "labels") -> list[dict[str, Any]]:
    path = folder / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def bytes_of(folder: Path) -> bytes:
    return (folder / "labels.jsonl").read_bytes()


def said_of(folder: Path, stage: str = "answers") -> list[lines.Line]:
    return [line for path in sorted(folder.glob(f"labelled-{stage}-*")) for line in lines.read(path)[0]]


def test_each_prompt_is_answered_in_its_place(root: Path, models: dict[str, Path]) -> None:
    found = trained(planned(root, "answers"))
    good, refused = labels_of(found.folder), labels_of(found.folder, "refused")
    assert [row["id"] for row in good] == sorted(row["id"] for row in good)
    assert {row["refused"] for row in refused} <= {"the answer is empty"}
    rows = {row["id"]: row for row in (*good, *refused)}
    assert sorted(rows) == list(range(QUESTIONS))
    assert all(row["source"] == f"data/questions.jsonl:{n + 1}" for n, row in rows.items())
    opened = open_named(read(root), "big")
    for row in good[:2] + good[-2:]:  # alone they are answered as in a batch
        *asked, said = row["messages"]
        assert said == {"role": "assistant", "content": answer(opened, asked[0]["content"], 12, 0.0)}
    assert [message["role"] for message in rows[5]["messages"]] == ["system", "user", "assistant"]
    assert all(row["cost"]["output_tokens"] <= 12 < row["cost"]["input_tokens"] for row in rows.values())
    steps = steps_of(found.folder)
    assert (steps[-1]["step"], steps[-1]["total"]) == (QUESTIONS, QUESTIONS)
    tokens = sum(sum(row["cost"].values()) for row in rows.values())
    assert sum(step["tokens"] for step in steps) == tokens
    (measured,) = measured_of(found.folder)
    assert (measured["rows"], measured["refused"]) == (len(good), len(refused))
    assert report.show(found)
    assert report.table([found])


def test_what_is_drawn_for_a_prompt_does_not_depend_on_the_others(root: Path) -> None:
    opened = open_named(read(root), "big")
    prompts = [opened.tokenizer.encode(text) for text in ("What is", "one", "and 2")]  # type: ignore[union-attr]
    given: dict[str, Any] = {"max_new_tokens": 10, "temperature": 1.5}
    all_three = generate(opened.loaded.module, prompts, seed=[3, 4, 5], **given)
    assert generate(opened.loaded.module, prompts[::-1], seed=[5, 4, 3], **given) == all_three[::-1]
    assert generate(opened.loaded.module, prompts[1:2], seed=[4], **given) == all_three[1:2]
    assert (
        len({tuple(generate(opened.loaded.module, prompts[:1], seed=[s], **given)[0]) for s in range(9)}) > 5
    )


def test_a_drawn_token_is_as_likely_as_the_model_says() -> None:
    from ptw.nn.decode import _draw

    logits = torch.tensor([0.0, -torch.inf, 1.0, 2.0]).expand(4000, -1)
    drawn = _draw(logits, 0.7, [torch.Generator().manual_seed(s) for s in range(4000)], shared=False)
    found = torch.bincount(torch.tensor(drawn), minlength=4) / 4000
    wanted = (logits[0] / 0.7).softmax(-1)
    assert found[1] == 0
    torch.testing.assert_close(found, wanted, atol=0.03, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_killed_worker_loses_and_doubles_nothing(
    root: Path, models: dict[str, Path], temperature: float
) -> None:
    """kill -9 amid the rows; half a line is left too, as a machine that dies leaves one."""
    other = with_questions(root.parent / "other", models)
    undisturbed = bytes_of(trained(planned(other, "answers", temperature=temperature)).folder)
    plan = planned(root, "answers", temperature=temperature)
    folder = plan.run_folder()
    killed(plan, least=4)
    some = len(said_of(folder))
    assert 4 <= some < QUESTIONS
    with (folder / "labelled-answers-00000.jsonl").open("a") as file:
        file.write('{"row": 99, "answ')
    assert not (folder / "labels.jsonl").exists()
    record.change(folder, state="running")
    trained(plan)
    assert bytes_of(folder) == undisturbed
    assert len(said_of(folder)) == QUESTIONS
    assert any(
        f"{some} of 23 are labelled already" in e["text"] for e in lines.read(folder / "events.jsonl")[0]
    )


def killed(plan: Plan, least: int, seconds: float = 0.0) -> None:
    """A worker of this run, in a process of its own, killed with -9 so long after so many lines are there."""
    process = multiprocessing.get_context("fork").Process(target=worker.work, args=(plan,))
    process.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(said_of(plan.run_folder())) < least and process.is_alive() and time.monotonic() < deadline:
        time.sleep(0.002)
    time.sleep(seconds)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def test_a_stop_is_heeded_between_batches_and_goes_on(root: Path, models: dict[str, Path]) -> None:
    other = with_questions(root.parent / "other", models)
    undisturbed = bytes_of(trained(planned(other, "best", keep="pair")).folder)
    plan = planned(root, "best", keep="pair")
    folder = plan.run_folder()
    assert trained(plan, lambda: len(said_of(folder)) >= 8).state == "stopped"
    assert len(said_of(folder)) == 8
    record.change(folder, state="running")
    assert trained(plan, lambda: len(said_of(folder, "scores")) >= 12).state == "stopped"
    assert len(said_of(folder)) == 3 * QUESTIONS
    record.change(folder, state="running")
    trained(plan)
    assert bytes_of(folder) == undisturbed
    steps = [line["step"] for line in steps_of(folder)]
    assert steps == sorted(set(steps))
    assert steps[-1] == 6 * QUESTIONS


def test_of_several_answers_the_judge_says_which_to_keep(root: Path, models: dict[str, Path]) -> None:
    every, best, pair = (
        labels_of(trained(planned(root, "best", keep=k)).folder) for k in ("all", "best", "pair")
    )
    drawn = every + labels_of(root / "runs" / "best-001", "refused")
    keys = sorted((row["id"], row["draw"]) for row in drawn)
    assert keys == [(n, k) for n in range(QUESTIONS) for k in range(3)]
    for row in best:
        mine = [one for one in every if one["id"] == row["id"]]
        assert row["rating"] == max(one["rating"] for one in mine)
        assert row["messages"] in [one["messages"] for one in mine]
        for key, count in row["cost"].items():
            assert count == sum(one["cost"][key] for one in drawn if one["id"] == row["id"])
    assert pair
    for row in pair:
        mine = [one for one in every if one["id"] == row["id"]]
        assert row["chosen_rating"] == max(one["rating"] for one in mine) > row["rejected_rating"]
        assert row["rejected_rating"] == min(one["rating"] for one in mine)
    folder = root / "runs" / "best-003"
    assert len(pair) + len(labels_of(folder, "refused")) == QUESTIONS
    # and each is a dataset
    declared = [
        ("every", 1, "chat"),
        ("rated", 1, "rated"),
        ("chosen", 2, "chat"),
        ("ranked", 3, "preference"),
    ]
    table = '[datasets.{}]\nsource = "runs/best-{:03d}/labels.jsonl"\nformat = "{}"\ntoo_long = "drop"\n'
    tables = [table.format(name, run, form) for name, run, form in declared]
    with_judged = '[recipes.again]\nrecipe = "dpo"\nmodel = "big"\ntokenizer = "words"\ndataset = "ranked"\n'
    declare(root, "".join(tables) + with_judged)
    assert problems(root) == []
    assert steps_of(trained(planned(root, "again", steps=1, window=128, rows=2)).folder)


def test_an_endpoints_answers_are_judged_here(root: Path) -> None:
    with serving() as server:
        endpoint = f'endpoint = "{server.url}"\nserved_as = "adder"'
        toml = root / "workspace.toml"
        text = toml.read_text().replace(
            '[recipes.best]\nrecipe = "label"\nmodel = "big"', FAR.format(endpoint)
        )
        toml.write_text(text)
        rows = labels_of(trained(planned(root, "best", keep="best")).folder)
        assert len(server.asked) == 3 * QUESTIONS
    assert len(rows) == QUESTIONS
    with serving() as other:
        toml.write_text(text.replace(server.url, other.url))
        refused = labels_of(trained(planned(root, "best", keep="best", window=60)).folder, "refused")
    assert refused
    for row in refused:
        assert re.fullmatch(r"all 3 answers: \d+ ids, and there is room for 60", row["refused"])


def test_refused_rows_can_be_asked_again(root: Path) -> None:
    first = trained(planned(root, "answers", cut_off="refuse", max_new_tokens=2, temperature=1))
    refused = labels_of(first.folder, "refused")
    assert refused
    toml = root / "workspace.toml"
    source = f'source = "runs/{first.name}/refused.jsonl"'
    toml.write_text(toml.read_text().replace('source = "data/questions.jsonl"', source))
    again = trained(planned(root, "answers", temperature=1, max_new_tokens=20))
    rows = labels_of(again.folder)
    assert rows
    assert {row["id"] for row in rows} <= {row["id"] for row in refused}
    assert not any("refused" in row or "message" in row for row in rows)


def test_chats_are_scored_as_transformers_scores_them(root: Path, models: dict[str, Path]) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    rows = labels_of(trained(planned(root, "scores")).folder)
    model = AutoModelForSequenceClassification.from_pretrained(models["judge"]).eval()
    tokenizer = AutoTokenizer.from_pretrained(models["judge"])
    assert len(rows) == 10
    for row in rows:
        ids = tokenizer.apply_chat_template(row["messages"], return_tensors="pt", return_dict=True)
        with torch.no_grad():
            assert row["rating"] == pytest.approx(model(**ids).logits.item(), abs=1e-4)


def test_what_cannot_be_used_is_kept_with_the_reason(root: Path) -> None:
    toml = root / "workspace.toml"
    toml.write_text(toml.read_text().replace('format = "prompt"', 'format = "prompt"\ntoo_long = "drop"'))
    found = trained(planned(root, "answers", cut_off="refuse", max_new_tokens=2, window=60, temperature=1))
    good, refused = labels_of(found.folder), labels_of(found.folder, "refused")
    assert len(good) + len(refused) == QUESTIONS
    reasons = {row["refused"] for row in refused}
    assert "cut off after max_new_tokens = 2" in reasons
    assert any("ids, and there is room for 58" in reason for reason in reasons), reasons
    assert all(row["prompt"] and row["source"] for row in refused)
    toml.write_text(toml.read_text().replace('\ntoo_long = "drop"', ""))
    with pytest.raises(PtwError, match=r"data/questions\.jsonl:3: \d+ ids, and there is room for 58; widen"):
        trained(planned(root, "answers", max_new_tokens=2, window=60))


@pytest.mark.parametrize(
    ("recipe", "dataset", "row", "said"),
    [
        ("answers", "questions", {"prompt": "Why? " * 60}, r"\d+ ids, and there is room for 84; widen the"),
        (
            "scores",
            "answered",
            {"messages": [ASKED, {"role": "assistant", "content": "No. " * 60}]},
            "room for 96",
        ),
    ],
)
def test_a_row_that_cannot_be_given_to_the_teacher_is_told_before_any_is_labelled(
    root: Path, recipe: str, dataset: str, row: dict[str, Any], said: str
) -> None:
    path = root / "data" / f"{dataset}.jsonl"
    others = path.read_text()
    path.write_text(others + json.dumps(row) + "\n")
    last = others.count("\n") + 1
    plan = planned(root, recipe, rows_at_once=1)
    with pytest.raises(PtwError, match=rf"data/{dataset}\.jsonl:{last}: .*{said}"):
        trained(plan)
    assert not list(plan.run_folder().glob("labelled-*")), "it is found before, not after hours"
    path.write_text(others)
    assert trained(planned(root, recipe), lambda: True).state == "stopped"


def test_a_row_that_the_template_does_not_write_is_told_before_any_is_labelled(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def demand(messages: list[Message], tools: object, text: str) -> None:
        if "What is 22 and" in text:
            raise PtwError("the chat template leaves out a part")

    monkeypatch.setattr(labels, "require_all", demand)
    plan = planned(root, "answers", rows_at_once=1)
    with pytest.raises(PtwError, match=r"data/questions\.jsonl:23: the chat template leaves out"):
        trained(plan)
    assert not said_of(plan.run_folder())


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"question": "2?"}, "a prompt row needs `prompt`, a string or messages; this row has None"),
        ({"prompt": [{"content": "2?"}]}, "message 1 must be an object with a `role`"),
        ({"prompt": [{"role": "assistant", "content": "3"}]}, "ends with the assistant's turn"),
    ],
)
def test_a_row_without_a_prompt_is_named(root: Path, row: dict[str, Any], said: str) -> None:
    with (root / "data" / "questions.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    plan = planned(root, "answers")
    with pytest.raises(PtwError, match=rf"data/questions\.jsonl:{QUESTIONS + 1}: .*{said}"):
        trained(plan)
    assert not said_of(plan.run_folder()), "nothing was asked before all was read"


def test_what_cannot_be_is_refused(root: Path) -> None:
    wrong: tuple[tuple[str, dict[str, object], str], ...] = (
        ("answers", {"answers": 2}, "temperature = 0.0: all 2 answers would be the same"),
        ("answers", {"keep": "best"}, "answers = 1: keep = best needs several"),
        ("answers", {"keep": "best", "answers": 2, "temperature": 1}, "needs roles = { judge ="),
        ("answers", {"concurrency": 3}, "concurrency = 3: it has no effect on model big"),
        ("answers", {"window": 200}, "max_position_embeddings = 128"),
        ("answers", {"window": 12}, "window = 12 has no room"),
        ("scores", {"temperature": 1}, "temperature = 1: it has no effect on chats"),
    )
    for recipe, overrides, said in wrong:
        with pytest.raises(PtwError) as caught:
            trained(planned(root, recipe, **overrides))
        assert said in str(caught.value)
    toml = root / "workspace.toml"
    declared = toml.read_text()
    for old, new, said in (
        (
            'recipe = "label"\nmodel = "big"',
            'recipe = "label"\nmodel = "judge"',
            "gives scores in place of words",
        ),
        (
            'recipe = "label"\nmodel = "big"',
            'recipe = "label"\nmodel = "tiny"',
            "is a shape, which knows nothing",
        ),
        (
            'model = "judge"\ntok',
            'model = "big"\ntok',
            "gives words, not scores: name a model that recipes/reward",
        ),
    ):
        toml.write_text(declared.replace(old, new))
        with pytest.raises(PtwError, match=said):
            trained(planned(root, "scores" if "scores" in said and "words, not" in said else "answers"))
    toml.write_text(declared.replace('roles = { judge = "judge" }', 'roles = { jugde = "judge" }'))
    assert ["did you mean 'judge'?" in str(one) for one in problems(root)] == [True]
    toml.write_text(declared.replace('format = "prompt"', 'format = "prompt"\ntoo_long = "truncate"'))
    assert ["a prompt cannot be cut" in str(one) for one in problems(root)] == [True]


def test_batches_are_the_same_whatever_is_known_and_for_all_workers() -> None:
    texts = [Text((n, 0), [0] * (n * 7 % 11 + 1), None) for n in range(100)]  # type: ignore[arg-type]
    whole = list(batches(texts, 3))
    assert sorted(text.key for batch in whole for text in batch) == [text.key for text in texts]
    known = {(n, 0) for n in range(0, 100, 2)}
    for world in (1, 2, 3):
        shares = [list(pending(whole, known.__contains__, rank, world)) for rank in range(world)]
        assert len({len(share) for share in shares}) == 1, "all workers do the same number of rounds"
        dealt = [batch for share in shares for batch in share if batch]
        assert all(batch in whole for batch in dealt)
        assert len(dealt) == sum(any(text.key not in known for text in batch) for batch in whole)


def test_a_torn_line_is_said_again(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "answers", ALONE)
    stage.add((0, 0), {"message": "ä"})
    with (tmp_path / "labelled-answers-00000.jsonl").open("ab") as file:
        file.write(b'\0\0\0\n{"row": 1, "answer": 0, "mess')
    again = Stage(tmp_path, "answers", ALONE)
    again.add((1, 0), {"message": "b"})
    again.refresh()
    assert len(again) == 2
    assert (again[0, 0]["message"], again[1, 0]["message"]) == ("ä", "b")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["answers", "best"])
@pytest.mark.parametrize("cluster", ["pair", "pool"])
def test_two_workers_label_as_one(root: Path, models: dict[str, Path], recipe: str, cluster: str) -> None:
    """Each with the whole model, or both with one between them; and either goes on with the other's."""
    other = with_questions(root.parent / "other", models)
    undisturbed = bytes_of(trained(planned(other, recipe)).folder)
    plan = planned(root, recipe)
    folder = plan.run_folder()
    trained(plan, lambda: len(said_of(folder)) >= 6)  # one worker begins
    plan = dataclasses.replace(plan, cluster=read(root).clusters[cluster])
    record.change(folder, state="running", plan=plan.as_json())
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert bytes_of(folder) == undisturbed
    assert len(list(folder.glob("labelled-answers-*"))) == 2


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # Ray Data warns of its own defaults
def test_on_ray_a_killed_worker_and_a_killed_driver_change_no_byte(
    ray: None, root: Path, models: dict[str, Path]
) -> None:
    settings = {"temperature": "1.0", "rows_at_once": "1"}
    other = with_questions(root.parent / "other", models)
    undisturbed = bytes_of(trained(planned(other, "answers", **settings)).folder)
    folder = root / "runs" / "answers-001"
    sets = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
    command = [sys.executable, "-m", "ptw", "train", "answers", *sets]
    driver = subprocess.Popen(command, cwd=root, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(folder, 4)
    os.kill(processes_of(folder)[0], signal.SIGKILL)
    some = len(said_of(folder))
    wait_for(folder, some + 3)
    workers = processes_of(folder)
    driver.kill()
    driver.communicate()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not all(is_gone(worker) for worker in workers) and time.monotonic() < deadline:
        time.sleep(0.1)
    while record.read(folder).state == "running" and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not (folder / "labels.jsonl").exists(), "it was too fast to be killed"
    launch.train(read(root), "answers", {}, resume=True)
    assert bytes_of(folder) == undisturbed
    assert len(said_of(folder)) == QUESTIONS


def wait_for(folder: Path, least: int) -> None:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while len(said_of(folder)) < least and time.monotonic() < deadline:
        time.sleep(0.005)


@pytest.mark.slow
def test_a_student_learns_from_a_teachers_answers(root: Path) -> None:
    """Distillation by labels: the teacher's answers become a dataset, and sft learns it."""
    found = trained(planned(root, "answers"))
    declare(
        root,
        f"""
[datasets.taught]
source = "runs/{found.name}/labels.jsonl"
format = "chat"
[recipes.student]
recipe = "sft"
model = "tiny"
tokenizer = "words"
dataset = "taught"
eval_dataset = "taught"
settings = {{ steps = 30, window = 128, rows = 4, learning_rate = 1e-2 }}
""",
    )
    assert problems(root) == []
    before, *_, after = measured_of(trained(planned(root, "student")).folder)
    assert after["held_out_loss"] < before["held_out_loss"] / 2
