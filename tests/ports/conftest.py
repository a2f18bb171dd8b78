"""Tiny reference checkpoints, made once."""

from pathlib import Path

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    GptOssConfig,
    GptOssForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MiniCPM3Config,
    MiniCPM3ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
    Qwen3MoeConfig,
    Qwen3MoeForCausalLM,
)

SIZES = {
    "vocab_size": 101,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
}
WITHOUT_GROUPS = {key: value for key, value in SIZES.items() if key != "num_key_value_heads"}
# its head scales nothing, so that HF's own class can stand in for the port
LATENT = {
    "q_lora_rank": 20,
    "kv_lora_rank": 14,
    "qk_nope_head_dim": 10,
    "qk_rope_head_dim": 8,
    "v_head_dim": 6,
}
PATTERN = {"head_dim": 20, "sliding_window": 5, "layer_types": ["sliding_attention", "full_attention"]}
MODELS = {
    "gemma3_text": lambda: Gemma3ForCausalLM(Gemma3TextConfig(**SIZES, **PATTERN)),
    "minicpm3": lambda: MiniCPM3ForCausalLM(
        MiniCPM3Config(**WITHOUT_GROUPS, **LATENT, num_key_value_heads=4, dim_model_base=48)
    ),
    "gpt_neox": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WITHOUT_GROUPS)),
    "gpt_neox-tied": lambda: GPTNeoXForCausalLM(GPTNeoXConfig(**WITHOUT_GROUPS, tie_word_embeddings=True)),
    "gpt_oss": lambda: GptOssForCausalLM(
        GptOssConfig(**SIZES, head_dim=20, sliding_window=5, num_local_experts=6, num_experts_per_tok=3)
    ),
    "llama": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True)),
    "llama-tied": lambda: LlamaForCausalLM(LlamaConfig(**SIZES, tie_word_embeddings=True)),
    "qwen3": lambda: Qwen3ForCausalLM(
        Qwen3Config(**SIZES, head_dim=24, use_sliding_window=True, sliding_window=5, max_window_layers=1)
    ),
    "qwen3_moe": lambda: Qwen3MoeForCausalLM(
        Qwen3MoeConfig(
            **SIZES,
            moe_intermediate_size=24,
            num_experts=6,
            num_experts_per_tok=3,
            mlp_only_layers=[1],
            norm_topk_prob=True,
        )
    ),
}


def random_model(name: str) -> torch.nn.Module:
    """Every parameter random, norms and biases too, so that none can be lost unseen."""
    torch.manual_seed(7)
    model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(0.3, 0.3)
    return model


@pytest.fixture(scope="session", params=MODELS)
def checkpoint(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints") / request.param
    random_model(request.param).save_pretrained(folder)
    return folder
