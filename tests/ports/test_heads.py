"""Every port in models/ gives scores in place of words: it learns, and is transformers' classifier of it."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ptw.nn.layout import Layout
from ptw.ports import classifier
from ptw.ports.export import export
from ptw.ports.load import Loaded, create, load
from ptw.ports.scores import Scores, problem_of, stored_names
from ptw.workspace import rooms
from tests.ports.test_spread import config_of

# peft still asks transformers by old names
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LIMIT = 1e-6  # norms compute in fp32, ours and theirs
PORTS = sorted(rooms.files(None, "models"))
LENGTHS = [11, 7, 5]
IDS = torch.randint(3, 60, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))
NAMES = ("lips", "nails", "skin & body")
WANTED = Scores(3, seed=1, pad_id=0, names=NAMES, problem="multi_label_classification")
WITHOUT_CLASS = ("dots1", "ernie4_5", "minimax_m2", "nanochat")  # of transformers 5


def scores_of(loaded: Loaded, lengths: list[int] = LENGTHS, ids: torch.Tensor = IDS) -> torch.Tensor:
    """(documents, labels) of documents that are packed into one row."""
    layout = Layout.of_documents([lengths])
    hidden_BTD = loaded.module(ids[None], layout)
    return loaded.module.head().logits(hidden_BTD[0, torch.tensor(lengths).cumsum(0) - 1])


def of_transformers(folder: Path, dtype: torch.dtype = torch.float64) -> torch.nn.Module:
    model, report = AutoModelForSequenceClassification.from_pretrained(
        folder,
        dtype=dtype,
        output_loading_info=True,
        trust_remote_code=True,
        attn_implementation="eager",
        experts_implementation="eager",
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    return model.eval()


def scores_there(model: torch.nn.Module, ids: torch.Tensor = IDS) -> torch.Tensor:
    """Of the documents as a user has them: a batch, padded."""
    padded = torch.nn.utils.rnn.pad_sequence(ids.split(LENGTHS), batch_first=True)
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    return model(padded, attention_mask=mask.long()).logits


@pytest.fixture(autouse=True)
def modules_aside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """transformers copies the code of a folder that brings some."""
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("port", PORTS)
def test_every_port_learns_scores_and_is_transformers_classifier(
    port: str, tied: bool, tmp_path: Path
) -> None:
    words = create(config_of(port, tie_word_embeddings=tied), None, seed=3, dtype=torch.float64)
    export(words, tmp_path / "words")
    loaded = load(tmp_path / "words", None, scores=WANTED, dtype=torch.float64)
    before = scores_of(loaded)
    assert before.shape == (3, 3)
    assert loaded.module.head().vocabulary == 3
    optimizer = torch.optim.SGD(loaded.module.parameters(), lr=0.1)
    torch.nn.functional.binary_cross_entropy_with_logits(before, torch.eye(3, dtype=torch.float64)).backward()
    idle = [name for name, one in loaded.module.named_parameters() if one.grad is None]
    assert not [name for name in idle if "expert" not in name and "e_score" not in name]  # chosen by no token
    optimizer.step()
    after = scores_of(loaded).detach()
    assert (after - before).abs().max() > 1e-6
    export(loaded, tmp_path / "scores")
    config = json.loads((tmp_path / "scores" / "config.json").read_text())
    assert problem_of(config) == WANTED.problem
    assert stored_names(config) == NAMES
    brought = (tmp_path / "scores" / f"{classifier.FILE}.py").exists()
    assert brought == (port in WITHOUT_CLASS)
    theirs = of_transformers(tmp_path / "scores")
    assert theirs.config.id2label == dict(enumerate(NAMES))
    with torch.no_grad():
        torch.testing.assert_close(scores_there(theirs), after, rtol=0, atol=LIMIT)
        torch.testing.assert_close(scores_of(load(tmp_path / "scores", None, dtype=torch.float64)), after)
        alone = [
            scores_of(loaded, [length], ids) for length, ids in zip(LENGTHS, IDS.split(LENGTHS), strict=True)
        ]
        torch.testing.assert_close(torch.cat(alone), after, rtol=0, atol=LIMIT)
