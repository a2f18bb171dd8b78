"""Every RoPE type of transformers gives the reference's frequencies, bit for bit in fp32."""

import pytest
import torch
from transformers import Gemma3TextConfig, GPTNeoXConfig, LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.gemma3.modeling_gemma3 import Gemma3RotaryEmbedding
from transformers.models.gpt_neox.modeling_gpt_neox import GPTNeoXRotaryEmbedding
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from ptw.errors import PtwError
from ptw.nn.layout import Layout
from ptw.nn.rope import FREQUENCIES, Rope, RopeConfig, Ropes, Rotation

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


@pytest.mark.parametrize("length", [129, 131, 150, 257, 300, 511])
@pytest.mark.parametrize("factor", [1.5, 3.0, 3.7, 8.1])
def test_a_base_that_grows_with_the_length_is_rounded_as_the_reference_rounds_it(length, factor):
    config = reference_config({"rope_type": "dynamic", "factor": factor})
    hidden, positions = torch.zeros(1, length, 96), torch.arange(length)[None]
    cos, sin = LlamaRotaryEmbedding(config)(hidden, positions)
    ours = Rope(RopeConfig.from_hf(config.to_dict(), HEAD, 128))(hidden, Layout.of_documents([[length]]))
    assert torch.equal(ours.cos[:, :, 0], cos)
    assert torch.equal(ours.sin[:, :, 0], sin)


@pytest.mark.parametrize("scaling", SCALINGS, ids=lambda s: s["rope_type"])
@pytest.mark.parametrize("share", [0.0, 0.2, 0.25, 0.5, 1.0])
@pytest.mark.parametrize("head", [HEAD, 11])
def test_a_share_of_each_head_is_turned_as_the_reference_turns_it(scaling, share, head):
    turned = int(head * share)
    pairs = head // 2 if scaling["rope_type"] == "proportional" else -(-turned // 2)
    scaling = {key: value[:pairs] if isinstance(value, list) else value for key, value in scaling.items()}
    rope = {"rope_theta": 500.0, **scaling, "partial_rotary_factor": share}
    config = GPTNeoXConfig(
        hidden_size=4 * head, num_attention_heads=4, max_position_embeddings=128, rope_parameters=rope
    )
    hidden, positions = torch.zeros(1, 150, 4 * head), torch.arange(150)[None]
    try:
        cos, sin = GPTNeoXRotaryEmbedding(config)(hidden, positions)
    except (ArithmeticError, RuntimeError):
        pytest.skip("the reference can't: nothing to turn, or an odd share in YaRN")
    if 2 * pairs > head:
        with pytest.raises(PtwError, match="head_dim must be even"):
            RopeConfig.of_parameters(rope, head, 128, partial=True)
        return
    ours = RopeConfig.of_parameters(rope, head, 128, partial=True)
    rotation = Rope(ours)(hidden, Layout.of_documents([[150]]))
    assert cos.shape[-1] == 2 * pairs
    assert torch.equal(rotation.cos[:, :, 0], cos)
    assert torch.equal(rotation.sin[:, :, 0], sin)


def test_what_lies_beyond_the_turned_share_is_left():
    heads = torch.randn(1, 5, 2, 8, generator=torch.Generator().manual_seed(0))
    angles = torch.randn(1, 5, 1, 4, generator=torch.Generator().manual_seed(1))
    turned = Rotation(angles.cos(), angles.sin())(heads)
    assert torch.equal(turned[..., 4:], heads[..., 4:])
    assert not torch.equal(turned[..., :4], heads[..., :4])
    assert torch.equal(Rotation(angles[..., :0], angles[..., :0])(heads), heads)


def test_each_kind_of_layer_has_a_rope_of_its_own():
    given = {"full_attention": SCALINGS[8], "sliding_attention": SCALINGS[2]}
    given = {
        kind: {"rope_theta": theta, **given[kind]} for kind, theta in zip(given, (500.0, 70.0), strict=True)
    }
    config = Gemma3TextConfig(
        num_hidden_layers=2,
        head_dim=HEAD,
        max_position_embeddings=128,
        rope_parameters=given,
        layer_types=list(given),
    )
    reference = Gemma3RotaryEmbedding(config)
    ours = Ropes({kind: RopeConfig.of_parameters(given[kind], HEAD, 128) for kind in given})
    hidden = torch.zeros(1, 150, 96)
    rotations = ours(hidden, Layout.of_documents([[150]]))
    for kind in given:
        cos, sin = reference(hidden, torch.arange(150)[None], kind)
        assert torch.equal(rotations[kind].cos[:, :, 0], cos)
        assert torch.equal(rotations[kind].sin[:, :, 0], sin)


@pytest.mark.parametrize(("width", "share"), [(7, 1.0), (8, 1.5), (5, 1.0)])
def test_more_than_a_head_cannot_be_turned(width, share):
    rope = {"rope_theta": 500.0, "partial_rotary_factor": share}
    with pytest.raises(PtwError, match="head_dim must be even and partial_rotary_factor at most 1"):
        RopeConfig.of_parameters(rope, width, 128, partial=True)


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
