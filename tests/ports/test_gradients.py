"""The embedding of the padding token learns nothing where the reference's doesn't, and all else as there."""

import json
import shutil

import pytest
import torch
from torch.nn import functional
from transformers import AutoModelForCausalLM

from ptw.nn.layout import Layout
from ptw.ports.load import load

READS_NO_PADDING = ("gpt_neox",)  # its embedding has no row that is left out


@pytest.mark.parametrize("padding", [3, -1])
def test_gradients_are_the_references_with_a_padding_token_in_the_text(checkpoint, tmp_path, padding):
    folder = shutil.copytree(checkpoint, tmp_path / "copy")
    config = json.loads((folder / "config.json").read_text()) | {"pad_token_id": padding}
    (folder / "config.json").write_text(json.dumps(config))
    ids = torch.tensor([[5, 3, 8, 100, 3, 3, 9]])
    reference = AutoModelForCausalLM.from_pretrained(folder, attn_implementation="eager")
    logits = reference(ids, use_cache=False).logits[0]
    functional.cross_entropy(logits[:-1], ids[0, 1:], reduction="sum").backward()
    module = load(folder, None).module
    targets = functional.pad(ids[:, 1:], (0, 1), value=-100)
    module.head().loss(module(ids, Layout.of_documents([[7]])), targets).backward()
    embedding = next(child for child in module.modules() if isinstance(child, torch.nn.Embedding))
    theirs = reference.get_input_embeddings().weight.grad
    torch.testing.assert_close(embedding.weight.grad[:101], theirs, rtol=1e-3, atol=1e-4 * theirs.abs().max())
    if not config["tie_word_embeddings"] and config["model_type"] not in READS_NO_PADDING:
        assert embedding.weight.grad[padding % 101].abs().max() == 0
