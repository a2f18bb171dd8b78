"""Vectors find their documents, gradients are those of the whole step, and sentence-transformers agrees."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ptw.data.pack import PackedRow, lay_out
from ptw.data.sample import Sample
from ptw.errors import PtwError
from ptw.evals.answer import answer
from ptw.evals.evaluate import evaluate
from ptw.evals.rows import forward_of
from ptw.ports.load import load
from ptw.runs import record
from ptw.train import contrast, sentence, vectors
from ptw.train.feed import StepRows, batches
from ptw.train.group import Group
from ptw.train.moment import export, open_at
from ptw.train.run import Run
from ptw.workspace import rooms
from ptw.workspace.check import problems
from ptw.workspace.manifest import DatasetEntry, Share, read
from tests.train.conftest import curve_of, declare, measured_of, planned, steps_of, together, trained
from tests.train.test_adapted import with_base

ALONE = Group(0, 1, torch.device("cpu"))
TOML = """
[datasets.pairs]
source = "data/pairs.jsonl"
format = "pair"
query_prompt = "query: "
[recipes.find]
recipe = "embed"
model = "tiny"
tokenizer = "words"
dataset = "pairs"
eval_dataset = "pairs"
[recipes.find.settings]
steps = 24
window = 64
rows = 4
rows_at_once = 4
learning_rate = 3e-3
eval_every = 8
checkpoint_every = 8
widths = [8]
symmetric = true
"""
embed = rooms.load(rooms.stock("recipes") / "embed.py")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return with_pairs(tmp_path / "ws")


def with_pairs(root: Path, **sizes: Any) -> Path:
    """A number's query is to find its square; every third has negatives; of 22? two documents are right."""
    with_base(root, **sizes)
    rows: list[dict[str, Any]] = [{"query": f"{n}?", "positive": f"{n}: {n * n}"} for n in range(23)]
    for n in range(0, 22, 3):
        rows[n]["negatives"] = [f"{n + 30}: {n}", "No."][: 1 + n % 2]
    return declare(root, TOML, pairs=[*rows, {"query": "22?", "positive": "22: many"}])


def begun(root: Path, **overrides: Any) -> tuple[Run, Any]:
    plan = planned(root, "find", **overrides)
    settings = embed.Settings(**plan.settings)
    run = Run(plan, settings, ALONE, lambda: False)
    return run, run.model(pooling=settings.pooling)


def sample_of(*documents: list[int]) -> Sample:
    ids = np.array(list(itertools.chain(*documents)), np.int32)
    return Sample("", ids, np.zeros(len(ids), bool), tuple(map(len, documents)))


def shares_of(run: Run, model: Any, rows: list[PackedRow], at_once: int) -> dict[str, torch.Tensor]:
    """The step's loss and figures, summed over its passes; the gradients are the model's."""
    settings: Any = run.settings
    object.__setattr__(settings, "rows_at_once", at_once)
    widths = vectors.widths_of(model, settings.widths)
    whole = vectors.Whole(run, vectors.embedder(run, model, settings.pooling), embed.judge(settings, widths))
    model.zero_grad()
    totals: dict[str, torch.Tensor] = {}
    for batch in batches(StepRows(tuple(rows), 1), at_once, ALONE):
        shares = whole.shares(batch)
        shares["loss"].backward()
        totals = {name: totals.get(name, 0) + share.detach() for name, share in shares.items()}
    return totals


def gradients_of(model: Any) -> dict[str, torch.Tensor]:
    found = {name: own.grad for name, own in model.named_parameters() if own.grad is not None}
    return {name: gradient.clone() for name, gradient in found.items()}


def plain_loss(run: Run, model: Any, rows: list[PackedRow]) -> torch.Tensor:
    """Every text alone, and every product and its place written out."""
    settings: Any = run.settings
    texts: list[tuple[list[tuple[int, ...]], list[torch.Tensor]]] = []
    for row in rows:
        places = iter(np.split(row.ids, np.cumsum(row.lengths))[:-1])
        for count in row.documents:
            parts = list(itertools.islice(places, count))
            hidden = [model(one.ids_BT, one.layout)[0] for one in map(alone, parts)]
            pooled = [part.mean(0) if settings.pooling == "mean" else part[-1] for part in hidden]
            texts.append(([tuple(part.tolist()) for part in parts], pooled))
    right = {pair for ids, _ in texts for pair in ((ids[0], ids[1]), (ids[0], ids[0]))}
    losses = []
    for width in (8, 32):
        unit = [[normalize(one[:width], dim=0) for one in pooled] for _, pooled in texts]
        for at, (ids, _) in enumerate(texts):
            there = [unit[at][0] @ unit[at][1]]
            there += [
                unit[at][0] @ unit[other][place]
                for other, (theirs, _) in enumerate(texts)
                for place in range(1, len(theirs))
                if (other, place) != (at, 1) and (ids[0], theirs[place]) not in right
            ]
            back = [there[0]]
            back += [
                unit[at][1] @ unit[other][0]
                for other, (theirs, _) in enumerate(texts)
                if other != at and (theirs[0], ids[1]) not in right
            ]
            both = [torch.stack(scores) / settings.temperature for scores in (there, back)]
            losses += [-scores.log_softmax(0)[0] for scores in both]
    return torch.stack(losses).mean()


def alone(ids: np.ndarray) -> Any:
    return forward_of([lay_out([sample_of(ids.tolist())], len(ids), 0)], ALONE.device)


def test_a_querys_own_text_is_not_held_against_it(root: Path) -> None:
    """Where a query is another row's document, the two vectors are the same, and can't be told apart."""
    text = (root / "workspace.toml").read_text()
    (root / "workspace.toml").write_text(text.replace('query_prompt = "query: "\n', ""))
    texts = [("1?", "one"), ("2?", "1?"), ("3?", "three")]
    declare(root, "", pairs=[{"query": query, "positive": positive} for query, positive in texts])
    run, model = begun(root, symmetric="true", widths="8")
    rows = list(itertools.islice(run.rows_ahead(), 3))
    plain = plain_loss(run, model, rows)
    plain.backward()
    wanted = gradients_of(model)
    for at_once in (3, 1):
        shares = shares_of(run, model, rows, at_once)
        torch.testing.assert_close(shares["loss"], plain.detach(), rtol=1e-6, atol=1e-6)
        for name, gradient in gradients_of(model).items():
            assert ((gradient - wanted[name]).norm() / wanted[name].norm()).item() < 1e-5, name


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_the_gradient_is_that_of_the_loss_written_out(
    root: Path, pooling: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, model = begun(root, pooling=pooling)
    found = [
        row
        for row in run.rows_ahead()
        if any(name.endswith(("jsonl:23", "jsonl:24")) for name in row.samples)
    ]
    rows = [*list(run.rows_ahead())[:2], *found]  # with two documents that are right for one query
    model.zero_grad()
    plain = plain_loss(run, model, rows)
    plain.backward()
    wanted = gradients_of(model)
    assert len(wanted) == len(list(model.parameters()))
    for at_once, scores in ((len(rows), 2**24), (2, 2**24), (1, 2**24), (2, 50)):
        monkeypatch.setattr(contrast, "CHUNK_ELEMENTS", scores)
        shares = shares_of(run, model, rows, at_once)
        torch.testing.assert_close(shares["loss"], plain.detach(), rtol=1e-6, atol=1e-6)
        found = gradients_of(model)
        assert found.keys() == wanted.keys()
        for name, gradient in found.items():
            assert ((gradient - wanted[name]).norm() / wanted[name].norm()).item() < 1e-5, name


def test_passes_change_nothing_not_even_what_dropout_drops(root: Path) -> None:
    run, model = begun(root, adapter="lora", lora_rank=4, lora_dropout=0.3)
    for name, own in model.named_parameters():
        if name.endswith("lora_B.weight"):
            torch.nn.init.normal_(own, std=0.05)
    rows = list(run.rows_ahead())[:3]
    drawn: list[torch.Tensor] = []
    widths = vectors.widths_of(model, None)
    inner = vectors.embedder(run, model, "mean")

    def seen(batch: Any) -> torch.Tensor:
        drawn.append(inner(batch))
        return drawn[-1]

    object.__setattr__(run.settings, "rows_at_once", 1)
    whole = vectors.Whole(run, seen, embed.judge(run.settings, widths))
    for batch in batches(StepRows(tuple(rows), 1), 1, ALONE):
        whole.shares(batch)["loss"].backward()
    assert len(drawn) == 6
    for first, again in zip(drawn[:3], drawn[3:], strict=True):
        assert torch.equal(first, again)
        assert again.requires_grad
        assert not first.requires_grad
    assert not torch.equal(inner(forward_of(rows[:1], ALONE.device)), drawn[0])  # dropout drops


def test_training_does_not_depend_on_how_many_rows_a_pass_has(root: Path) -> None:
    runs = [trained(planned(root, "find", steps=6, rows_at_once=count)) for count in (4, 1)]
    one, four = (steps_of(run.folder) for run in runs)
    for key in ("loss", "accuracy", "gradient_norm"):
        assert [line[key] for line in four] == pytest.approx([line[key] for line in one], rel=1e-5, abs=1e-6)
    assert one[0]["loss"] == pytest.approx(four[0]["loss"], rel=1e-6)


@pytest.mark.parametrize("pooling", ["mean", "last"])
def test_it_learns_to_find_and_sentence_transformers_gives_the_same_vectors(root: Path, pooling: str) -> None:
    found = trained(planned(root, "find", pooling=pooling))
    measured = measured_of(found.folder)
    assert [line["step"] for line in measured] == [0, 8, 16, 24]
    for key in ("recall@1", "recall@10", "mrr", "ndcg@10", "width_8_recall@10", "width_8_mrr"):
        before, after = (line[f"held_out_{key}"] for line in (measured[0], measured[-1]))
        assert before < after <= 1, key
    assert measured[-1]["held_out_recall@1"] > 0.6
    assert steps_of(found.folder)[-1]["loss"] < steps_of(found.folder)[0]["loss"] / 2

    from sentence_transformers import SentenceTransformer  # takes seconds

    folder = found.folder / record.MODEL
    theirs = SentenceTransformer(str(folder), device="cpu")
    texts = ["7?", "8 is it", "", " It is  a longer one."]
    loaded = load(folder, root)
    run = Run(planned(root, "find"), embed.Settings(**planned(root, "find").settings), ALONE, lambda: False)
    for prompt, encode in (("query: ", theirs.encode_query), ("", theirs.encode_document)):
        ids = [run.tokenizer.text_ids(prompt + text) for text in texts]
        rows = [lay_out([sample_of(*ids)], 512, 0)]
        ours = vectors.embedder(run, loaded.module.eval(), pooling)(forward_of(rows, ALONE.device))
        given = torch.from_numpy(encode(texts))
        torch.testing.assert_close(normalize(ours.detach(), dim=-1), given, rtol=0, atol=1e-5)
    assert theirs.max_seq_length == 64


def test_a_checkpoint_is_exported_as_the_run_is_and_gives_no_words(root: Path, tmp_path: Path) -> None:
    found = trained(planned(root, "find", steps=2, pooling="last"))
    exported = export(read(root), f"{found.name}@2", tmp_path / "out")
    ours, theirs = found.folder / record.MODEL, exported
    names = sorted(str(file.relative_to(ours)) for file in ours.rglob("*") if file.is_file())
    assert names == sorted(str(file.relative_to(theirs)) for file in theirs.rglob("*") if file.is_file())
    assert {"modules.json", "1_Pooling/config.json", "config_sentence_transformers.json"} <= set(names)
    assert all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in names)
    said = {key: value for key, value in measured_of(found.folder)[-1].items() if "width" not in key}
    for name in (found.name, f"{found.name}@2"):
        opened, workspace = open_at(read(root), name), read(root)
        measured = evaluate(workspace, opened)
        assert measured.pop("pairs") == 24
        for key, value in measured.items():
            assert value == pytest.approx(said[f"held_out_{key}"])
        with pytest.raises(PtwError, match="gives vectors, not words"):
            evaluate(workspace, opened, "chats")
        with pytest.raises(PtwError, match="gives vectors, not words"):
            answer(opened, "7?", 3, 0.0)
    words = dataclasses.replace(open_at(workspace, "tiny"), tokenizer=opened.tokenizer)
    with pytest.raises(PtwError, match="tiny gives words, and dataset pairs has pairs"):
        evaluate(workspace, words, "pairs")


def test_a_run_that_was_stopped_goes_on_as_if_it_had_not_been(root: Path) -> None:
    lora = {"adapter": "lora", "lora_rank": 4, "lora_dropout": 0.2, "rows_at_once": 1, "steps": 8}
    undisturbed = trained(planned(with_pairs(root.parent / "other"), "find", **lora))
    plan = planned(root, "find", **lora)
    assert trained(plan, lambda: len(steps_of(plan.run_folder())) == 3).state == "stopped"
    record.change(plan.run_folder(), state="running")
    found = trained(plan)
    assert curve_of(found.folder) == curve_of(undisturbed.folder)
    assert (found.folder / record.ADAPTER).is_dir()


def test_prompts_are_those_of_the_datasets_and_of_a_mix_each_parts(root: Path) -> None:
    plan = planned(root, "find")
    assert sentence.prompts_of(plan) == {"query": "query: ", "document": ""}
    parts = [
        DatasetEntry(name, (name,), "pair", query_prompt=f"{name}: ", document_prompt="d: ") for name in "ab"
    ]
    mix = DatasetEntry("pairs", (), "mix", mix=tuple(Share(part, 1) for part in parts))
    mixed = dataclasses.replace(plan, datasets={"pairs": mix})
    assert sentence.prompts_of(mixed) == {"query-a": "a: ", "query-b": "b: ", "document": "d: "}


def test_it_goes_on_from_an_embedding_model(root: Path) -> None:
    first = trained(planned(root, "find", steps=2))
    text = (root / "workspace.toml").read_text()
    (root / "workspace.toml").write_text(text.replace('hf = "base"', f'hf = "{first.folder / "model"}"'))
    again = trained(planned(root, "find", steps=1))
    after, before = measured_of(first.folder)[-1], measured_of(again.folder)[0]
    assert {**before, "step": 2} == after


def test_the_head_of_an_untied_model_stays_as_it_was(root: Path) -> None:
    untied = with_pairs(root.parent / "untied", tie_word_embeddings=False)
    found = trained(planned(untied, "find", steps=2, weight_decay=0.5))
    before, after = load(untied / "base", untied).module, load(found.folder / record.MODEL, untied).module
    for name, own in after.named_parameters():
        assert torch.equal(own, before.get_parameter(name)) == (name == "lm_head.weight"), name
    assert (export(read(untied), f"{found.name}@2", untied / "out") / "model.safetensors").read_bytes() == (
        found.folder / record.MODEL / "model.safetensors"
    ).read_bytes()


@pytest.mark.slow
def test_two_workers_find_as_one_does(root: Path) -> None:
    more = {"steps": 4, "rows_at_once": 1, "rows": 3, "eval_every": 2}
    one = trained(
        planned(with_pairs(root.parent / "other", tie_word_embeddings=False), "find", **more)
    ).folder
    plan = planned(with_pairs(root.parent / "third", tie_word_embeddings=False), "find", **more)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    two = plan.run_folder()
    for key in ("loss", "accuracy", "gradient_norm"):
        alone, both = ([line[key] for line in steps_of(folder)] for folder in (one, two))
        assert both == pytest.approx(alone, rel=1e-5, abs=1e-6)
    for alone, both in zip(measured_of(one), measured_of(two), strict=True):
        assert both.keys() == alone.keys()
        for key in (key for key in alone if key.startswith("held_out_")):
            assert both[key] == pytest.approx(alone[key], rel=1e-6)


def test_what_cannot_be_is_refused_in_words(root: Path) -> None:
    for wrong in ({"temperature": 0}, {"widths": "33"}, {"widths": "8,0"}):
        with pytest.raises(PtwError, match=f"settings: {next(iter(wrong))}"):
            trained(planned(root, "find", **wrong))
    with pytest.raises(PtwError, match=r"lora_dropout = 0\.1 beside compile = true: vectors"):
        trained(planned(root, "find", compile="true", adapter="lora", lora_dropout=0.1))
    text = (root / "workspace.toml").read_text()
    (root / "workspace.toml").write_text(
        text.replace('format = "pair"', 'format = "pair"\ntoo_long = "split"').replace(
            'source = "data/chats.jsonl"', 'source = "data/chats.jsonl"\nquery_prompt = "q"'
        )
    )
    said = "\n".join(map(str, problems(root)))
    assert "a query with its documents cannot be split" in said
    assert "only pairs have prompts, not chat" in said
