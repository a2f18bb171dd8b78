"""A port with scores in place of words is transformers' own sequence classifier, both ways."""

import dataclasses
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForSequenceClassification

from ptw.errors import PtwError
from ptw.nn.layout import Layout
from ptw.ports.export import export
from ptw.ports.load import Loaded, load
from ptw.ports.scores import SCORES, Scores, classifier_config

LENGTHS = [11, 7]
IDS = torch.randint(2, 101, (sum(LENGTHS),), generator=torch.Generator().manual_seed(0))


def scores_of(loaded: Loaded) -> torch.Tensor:
    """Of both documents, packed into one row."""
    module = loaded.module.eval()
    with torch.no_grad():
        hidden_BTD = module(IDS[None], Layout.of_documents([LENGTHS]))
        ends = torch.tensor(LENGTHS).cumsum(0) - 1
        return module.head().logits(hidden_BTD[0, ends])


def test_an_exported_classifier_gives_the_same_scores_in_transformers(
    checkpoint: Path, tmp_path: Path
) -> None:
    wanted = Scores(labels=3, seed=1, pad_id=0)
    loaded = load(checkpoint, None, scores=wanted, dtype=torch.float64)
    assert "lm_head.weight" not in dict(loaded.module.named_parameters())
    export(loaded, tmp_path / "classifier")
    theirs, report = AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "classifier", dtype=torch.float64, output_loading_info=True, experts_implementation="eager"
    )
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert theirs.config.num_labels == 3
    padded = torch.nn.utils.rnn.pad_sequence(IDS.split(LENGTHS), batch_first=True)
    mask = torch.arange(max(LENGTHS))[None] < torch.tensor(LENGTHS)[:, None]
    with torch.no_grad():
        said = theirs.eval()(padded, attention_mask=mask.long()).logits
    torch.testing.assert_close(scores_of(loaded), said, rtol=1e-9, atol=1e-9)
    again = load(tmp_path / "classifier", None, dtype=torch.float64)
    assert torch.equal(scores_of(again), scores_of(loaded))


def test_what_is_learnt_begins_where_the_seed_says(checkpoint: Path) -> None:
    drawn = [
        load(checkpoint, None, scores=Scores(2, seed)).module.get_parameter(SCORES) for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def test_other_scores_than_there_are_are_refused(tmp_path: Path, checkpoint: Path) -> None:
    if checkpoint.name != "llama":
        pytest.skip("one family is enough")
    loaded = load(checkpoint, None, scores=Scores(5))
    config = classifier_config(loaded.hf_config, Scores(5, pad_id=1))
    export(dataclasses.replace(loaded, hf_config=config), tmp_path / "five")
    with pytest.raises(PtwError, match="it gives 5 scores of a text, and the recipe learns 1"):
        load(tmp_path / "five", None, scores=Scores(1))
    named = classifier_config(loaded.hf_config, Scores(5, names=tuple("abcde")))
    export(dataclasses.replace(loaded, hf_config=named), tmp_path / "named")
    with pytest.raises(PtwError, match="its label 0 is 'a', and the recipe's is 'b'"):
        load(tmp_path / "named", None, scores=Scores(5, names=tuple("bacde")))


def test_without_a_port_hugging_faces_class_gives_the_same_scores(tmp_path: Path, checkpoint: Path) -> None:
    wanted = Scores(4, seed=2, pad_id=0, names=tuple("abcd"), problem="regression")
    ours = load(checkpoint, None, scores=wanted)
    theirs = load(checkpoint, None, port="hf", scores=wanted)
    torch.testing.assert_close(scores_of(theirs), scores_of(ours), rtol=0, atol=1e-5)
    assert theirs.hf_config == ours.hf_config
    export(theirs, tmp_path / "theirs")
    for port in (None, "hf"):
        again = load(tmp_path / "theirs", None, port=port)
        torch.testing.assert_close(scores_of(again), scores_of(ours), rtol=0, atol=1e-5)
