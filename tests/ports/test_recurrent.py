"""Without a port a recurrent state ends with its document: no packed row carries it into the next one."""

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from ptw.nn.layout import Layout
from ptw.ports.load import load

SIZES = {"vocab_size": 101, "hidden_size": 32, "num_hidden_layers": 2, "pad_token_id": 0}
HEADS = {"intermediate_size": 48, "num_attention_heads": 4, "num_key_value_heads": 2}
STATE = {f"linear_{part}": size for part, size in (("key_head_dim", 8), ("value_head_dim", 8))}
STATE |= {"linear_num_key_heads": 2, "linear_num_value_heads": 4}
EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
FAMILIES: dict[str, dict[str, Any]] = {
    "bamba": {**HEADS, "mamba_n_heads": 8, "mamba_d_head": 8, "mamba_d_state": 8, "attn_layer_indices": [1]},
    "lfm2": HEADS | {"layer_types": ["conv", "full_attention"]},
    "mamba": {"state_size": 8},
    "qwen3_next": HEADS | STATE | EXPERTS | {"layer_types": ["linear_attention", "full_attention"]},
}
DOCUMENTS = [9, 1, 17, 4]
IDS = torch.randint(1, 101, (1, sum(DOCUMENTS)), generator=torch.Generator().manual_seed(3))


def without_port(family: str, folder: Path) -> Any:
    torch.manual_seed(0)
    made = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **SIZES, **FAMILIES[family]))
    for parameter in made.parameters():
        if parameter.dim() > 1:  # what a state carries is large
            torch.nn.init.normal_(parameter, std=0.2)
    made.save_pretrained(folder)
    return load(folder, None, port="hf").module.eval()


@torch.no_grad()
def logits(module: Any, ids: torch.Tensor, documents: list[int]) -> torch.Tensor:
    return module.head().logits(module(ids, Layout.of_documents([documents])))


@pytest.mark.parametrize("family", FAMILIES)
def test_no_document_knows_what_stands_before_it(family: str, tmp_path: Path) -> None:
    module = without_port(family, tmp_path)
    packed = logits(module, IDS, DOCUMENTS)
    alone = [logits(module, ids[None], [len(ids)]) for ids in IDS[0].split(DOCUMENTS)]
    torch.testing.assert_close(packed, torch.cat(alone, 1), rtol=0, atol=1e-5)
    first = DOCUMENTS[0]
    other = IDS.clone()
    other[0, :first] = (IDS[0, :first] + 7) % 100 + 1
    changed = (logits(module, other, DOCUMENTS) - packed).abs()
    assert changed[:, :first].max() > 1
    assert changed[:, first:].max() <= 1e-5
    as_one = logits(module, IDS, [sum(DOCUMENTS)])
    assert (as_one - packed)[:, first:].abs().max() > 1  # a state that went on would show
