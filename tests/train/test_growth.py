"""A model gets rows for semantic IDs: they begin in their items' texts, learn alone, and are exported."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from ptw.errors import PtwError
from ptw.ports.grow import Growth
from ptw.ports.load import load
from ptw.runs import record
from tests.train.conftest import (
    declare,
    make_workspace,
    measured_of,
    planned,
    steps_of,
    together,
    trained,
    with_codes,
)

GROWN = """
[models.taught]
hf = "{taught}"
{port}
[semantic_ids.films]
items = "data/films.jsonl"
levels = 2
codebook_size = 8
[tokenizers.grown]
hf = "{taught}"
semantic_ids = "films"
special_tokens = ["<|binge|>"]
[datasets.named]
source = "data/named.jsonl"
format = "chat"
[recipes.rows]
recipe = "sft"
model = "taught"
tokenizer = "grown"
dataset = "named"
eval_dataset = "chats"
[recipes.rows.settings]
steps = 6
window = 128
rows = 2
learning_rate = 1e-2
stage = "new-rows"
"""
WORDS = ["and", "one", "What", "is"]

ALL = """
[models.rows]
hf = "{first}"
[recipes.all]
recipe = "sft"
model = "rows"
tokenizer = "grown"
dataset = "named"
settings = {{ steps = 2, window = 128, rows = 2, learning_rate = 0.0 }}
"""


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def taught(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = make_workspace(tmp_path_factory.mktemp("taught") / "ws", tied=request.param)
    return trained(planned(root, "chat")).folder / record.MODEL


def workspace(root: Path, taught: Path, port: str = "") -> Path:
    films = [{"id": f"f{n}", "text": f"{WORDS[n % 4]} {n}"} for n in range(24)]
    named = [
        {
            "messages": [
                {"role": "user", "content": f"What is <|films:f{n}|>?"},
                {"role": "assistant", "content": f"<|films:f{(n + 1) % 24}|> and {n}"},
            ]
        }
        for n in range(24)
    ]
    root = declare(make_workspace(root), GROWN.format(taught=taught, port=port), films=films, named=named)
    names, codes = [film["id"] for film in films], [[n % 4, n // 4] for n in range(24)]
    with_codes(root, "films", codes, items=names, size=8, file="data/films.jsonl")
    return root


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize("port", ["", 'port = "hf"'])
def test_new_rows_learn_and_nothing_else_moves(tmp_path: Path, taught: Path, port: str) -> None:
    run = trained(planned(workspace(tmp_path / "ws", taught, port), "rows"))
    before, after = tensors(taught), tensors(run.folder / record.MODEL)
    assert before.keys() == after.keys()
    old = len(before["model.embed_tokens.weight"])
    tables = [name for name in before if before[name].shape != after[name].shape]
    tied = json.loads((taught / "config.json").read_text())["tie_word_embeddings"]
    assert (
        tables == ["model.embed_tokens.weight"]
        if tied
        else set(tables) == {"model.embed_tokens.weight", "lm_head.weight"}
    )
    for name in before:
        assert torch.equal(before[name], after[name][:old] if name in tables else after[name]), name
    assert len(after["model.embed_tokens.weight"]) == old + 17
    losses = [step["loss"] for step in steps_of(run.folder)]
    assert losses[-1] < losses[0]
    assert measured_of(run.folder)[0]["step"] == 0, "what it could before is measured, too"


def test_transformers_loads_what_was_exported(tmp_path: Path, taught: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    run = trained(planned(workspace(tmp_path / "ws", taught), "rows"))
    folder = run.folder / record.MODEL
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    assert model.config.vocab_size == len(tokenizer) == len(model.get_input_embeddings().weight)
    ids = tokenizer("What is <|films.0.3|><|films.1.2|>?")["input_ids"]
    ours = load(folder, tmp_path / "ws")
    from ptw.nn.layout import Layout

    with torch.no_grad():
        hidden = ours.module(torch.tensor([ids]), Layout.of_documents([[len(ids)]]))
        theirs = model(input_ids=torch.tensor([ids])).logits
    torch.testing.assert_close(ours.module.head().logits(hidden), theirs, rtol=1e-4, atol=1e-4)  # type: ignore[operator]


def test_then_all_learns_from_there(tmp_path: Path, taught: Path) -> None:
    root = workspace(tmp_path / "ws", taught)
    first = trained(planned(root, "rows"))
    toml = (root / "workspace.toml").read_text()
    (root / "workspace.toml").write_text(toml + ALL.format(first=first.folder / record.MODEL))
    second = trained(planned(root, "all"))
    for name, tensor in tensors(first.folder / record.MODEL).items():
        assert torch.equal(tensor, tensors(second.folder / record.MODEL)[name]), "rows that are there stay"
    adapted = trained(planned(root, "all", adapter="lora", learning_rate=1e-2))
    assert (adapted.folder / record.MODEL).is_dir()


@pytest.mark.slow
def test_two_workers_are_one(tmp_path: Path, taught: Path) -> None:
    root = workspace(tmp_path / "ws", taught)
    alone, plan = trained(planned(root, "rows")), planned(root, "rows")
    for process in together(plan, 2):
        assert process.returncode == 0, process.stderr[-2000:]
    one, two = (tensors(folder / record.MODEL) for folder in (alone.folder, plan.run_folder()))
    old = len(tensors(taught)["model.embed_tokens.weight"])
    table = "model.embed_tokens.weight"
    assert torch.equal(two[table][:old], tensors(taught)[table])
    torch.testing.assert_close(one[table], two[table], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"adapter": "lora", "stage": "all"}, "an adapter's base never learns them: train with stage"),
        ({"adapter": "lora"}, "adapter = lora: beside stage = new-rows: rows learn, or an adapter"),
        ({"weight_decay": 0.1}, "it would move the rows that stay; set it to 0"),
    ],
)
def test_what_would_not_do_is_refused(
    tmp_path: Path, taught: Path, change: dict[str, Any], message: str
) -> None:
    root = workspace(tmp_path / "ws", taught)
    with pytest.raises(PtwError, match=message):
        trained(planned(root, "rows", **change))
    with pytest.raises(PtwError, match="declares no new tokens"):
        trained(planned(root, "chat", stage="new-rows"))


@pytest.mark.parametrize("init", ["grounded", "mean", "normal"])
def test_rows_begin_as_declared(init: Any) -> None:
    table_VD = torch.randn(50, 16, generator=torch.Generator().manual_seed(0))
    texts = {50: [[1, 2], [1]], 51: [[3]], 52: [[3], [4, 5]]}
    grown_VD = Growth(50, 54, init, texts).table(table_VD)
    assert torch.equal(grown_VD[:50], table_VD)
    assert grown_VD.shape == (54, 16)
    mean_D, new_ND = table_VD.mean(0), grown_VD[50:]
    usual = (table_VD - mean_D).norm(dim=-1).square().mean().sqrt()
    if init == "mean":
        torch.testing.assert_close(new_ND, mean_D.expand(4, -1))
        return
    lengths = (new_ND - mean_D).norm(dim=-1)
    assert ((lengths > usual * 0.3) & (lengths < usual * 2)).all(), "as far from the mean as rows are"
    if init == "grounded":
        of_texts = torch.stack([(table_VD[[1, 2]].mean(0) + table_VD[1]) / 2, table_VD[3]])
        of_texts = torch.cat([of_texts, ((table_VD[3] + table_VD[[4, 5]].mean(0)) / 2)[None]])
        off_MD = of_texts - of_texts.mean(0)
        cosine_M = torch.cosine_similarity(new_ND[:3] - mean_D, off_MD)
        torch.testing.assert_close(cosine_M, torch.ones(3))
    reserved = Growth(40, 45, init, {40: [[1]], 41: [[2]]}).table(table_VD)
    assert len(reserved) == 50
    assert torch.equal(reserved[45:], table_VD[45:]), "rows that are there are used"
