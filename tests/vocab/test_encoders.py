"""Encoders that are no models of next words: their vectors are what transformers' own class gives."""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor
from transformers import BertConfig, BertModel, PreTrainedTokenizerFast

from ptw.errors import PtwError
from ptw.tokens.semantic import open_semantic_ids
from ptw.vocab import build as making
from ptw.vocab.encode import encoded
from ptw.workspace.manifest import Workspace, read

TEXTS = ["a b c", "d", "a a d e f g", "h b"]
TOML = """
[workspace]
name = "encoders"
[models.bert]
hf = "bert"
[semantic_ids.films]
items = "data/items.jsonl"
encoder = "bert"
levels = 2
codebook_size = 4
"""


@pytest.fixture
def bert() -> BertModel:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
    return BertModel(BertConfig(vocab_size=20, max_position_embeddings=32, **sizes)).eval()


@pytest.fixture
def workspace(tmp_path: Path, bert: BertModel) -> Workspace:
    vocabulary = {token: at for at, token in enumerate(["[PAD]", "[UNK]", *"abcdefgh"])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    bert.save_pretrained(tmp_path / "bert")
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]")
    own.save_pretrained(tmp_path / "bert")
    (tmp_path / "data").mkdir()
    rows = [json.dumps({"id": f"f{n}", "text": text}) + "\n" for n, text in enumerate(TEXTS)]
    (tmp_path / "data" / "items.jsonl").write_text("".join(rows))
    (tmp_path / "workspace.toml").write_text(TOML)
    return read(tmp_path)


def states(bert: BertModel, text: str) -> Tensor:
    """(T, D) of a text alone, without padding."""
    ids = torch.tensor([[2 + "abcdefgh".index(word) for word in text.split()]])
    with torch.no_grad():
        hidden: Tensor = bert(ids).last_hidden_state[0]
    return hidden


def test_a_bare_encoder_gives_means(workspace: Workspace, bert: BertModel) -> None:
    wanted_ND = torch.stack([states(bert, text).mean(0) for text in TEXTS])
    found_ND = encoded(workspace, "bert", TEXTS, print)
    torch.testing.assert_close(found_ND, torch.nn.functional.normalize(wanted_ND), rtol=1e-4, atol=1e-5)


def test_a_folder_of_sentence_transformers_says_which_vector(workspace: Workspace, bert: BertModel) -> None:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Pooling, Transformer

    words = Transformer(str(workspace.root / "bert"))
    pooling = Pooling(16, pooling_mode="cls")
    SentenceTransformer(modules=[words, pooling], device="cpu").save(str(workspace.root / "bert"))
    wanted_ND = torch.stack([states(bert, text)[0] for text in TEXTS])
    found_ND = encoded(workspace, "bert", TEXTS, print)
    torch.testing.assert_close(found_ND, torch.nn.functional.normalize(wanted_ND), rtol=1e-4, atol=1e-5)


def test_a_vocabulary_is_built_of_them(workspace: Workspace) -> None:
    making.build(workspace, "films", print)
    ids = open_semantic_ids(workspace.root, workspace.semantic_ids["films"])
    assert ids.items == tuple(f"f{n}" for n in range(len(TEXTS)))


def test_a_folder_that_cannot_be_read_is_named(workspace: Workspace) -> None:
    (workspace.root / "bert" / "model.safetensors").write_bytes(b"broken")
    with pytest.raises(PtwError, match="bert: sentence-transformers can't load it: "):
        encoded(workspace, "bert", TEXTS, print)
    (workspace.root / "bert" / "config.json").write_text("{}")
    with pytest.raises(PtwError, match="no config of a model"):
        encoded(workspace, "bert", TEXTS, print)
