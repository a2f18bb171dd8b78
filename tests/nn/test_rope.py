"""Every RoPE type of transformers gives the reference's frequencies, bit for bit in fp32."""

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ptw.errors import PtwError
from ptw.nn.layout import Layout
from ptw.nn.rope import FREQUENCIES, Rope, RopeConfig

HEAD = 24
FACTORS = {
    "short_factor": [1.0 + 0.1 * i for i in range(12)],
    "long_factor": [1.5 + 0.3 * i for i in range(12)],
}
SCALINGS = [
    {"rope_type": "default"},
    {"rope_type": "linear", "factor": 3.0},
    {"rope_type": "dynamic", "factor": 2.5},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512},
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "truncate": False},
    {
        "rope_type": "yarn",
        "factor": 8.0,
        "original_max_position_embeddings": 512,
        "beta_fast": 16,
        "beta_slow": 2,
    },
    {
        "rope_type": "yarn",
        "factor": 4.0,
        "original_max_position_embeddings": 512,
        "mscale": 0.7,
        "mscale_all_dim": 1.3,
    },
    {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 512, "attention_factor": 1.1},
    {"rope_type": "longrope", "factor": 4.0, "original_max_position_embeddings": 32, **FACTORS},
    {"rope_type": "longrope", "original_max_position_embeddings": 32, "attention_factor": 1.2, **FACTORS},
    {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 64,
    },
    {"rope_type": "proportional", "partial_rotary_factor": 0.5, "factor": 2.0},
]


def reference_config(scaling):
    return LlamaConfig(
        hidden_size=96,
        num_attention_heads=4,
        head_dim=HEAD,
        max_position_embeddings=128,
        rope_parameters={"rope_theta": 500.0, **scaling},
    )


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s["rope_type"])
@pytest.mark.parametrize("length", [20, 100, 300])
def test_frequencies_are_the_references(scaling, length):
    config = reference_config(scaling)
    positions = torch.arange(length)[None]
    cos, sin = LlamaRotaryEmbedding(config)(torch.zeros(1, length, 96), positions)
    ours = Rope(RopeConfig.from_hf(config.to_dict(), HEAD, 128))
    rotation = ours(torch.zeros(1, length, 96), Layout.of_documents([[length]]))
    assert torch.equal(rotation.cos[:, :, 0], cos)
    assert torch.equal(rotation.sin[:, :, 0], sin)


def test_no_type_of_transformers_is_missing():
    assert set(FREQUENCIES) == {"default", *ROPE_INIT_FUNCTIONS}


def test_each_packed_document_has_the_frequencies_of_its_own_length():
    config = RopeConfig.from_hf(reference_config(SCALINGS[2]).to_dict(), HEAD, 128)
    hidden = torch.zeros(1, 340, 96)
    packed = Rope(config)(hidden, Layout.of_documents([[300, 40]]))
    alone = [Rope(config)(hidden[:, :n], Layout.of_documents([[n]])) for n in (300, 40)]
    assert torch.equal(packed.cos, torch.cat([rotation.cos for rotation in alone], dim=1))


def test_the_form_of_transformers_4_says_the_same():
    old = {"rope_theta": 500.0, "rope_scaling": {"type": "linear", "factor": 3.0}}
    new = {"rope_parameters": {"rope_type": "linear", "rope_theta": 500.0, "factor": 3.0}}
    assert RopeConfig.from_hf(old, HEAD, 128) == RopeConfig.from_hf(new, HEAD, 128)


@pytest.mark.parametrize(
    ("scaling", "named"),
    [
        ({"rope_type": "spiral"}, "spiral"),
        ({"rope_type": "linear", "factor": 2.0, "mscale": 0.5}, "mscale"),
        ({"rope_type": "default", "partial_rotary_factor": 0.5}, "partial_rotary_factor"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(scaling, named):
    with pytest.raises(PtwError, match=named):
        RopeConfig.from_hf({"rope_parameters": scaling}, HEAD, 128)
