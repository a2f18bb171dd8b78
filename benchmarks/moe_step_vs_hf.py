"""How fast is a training step with many experts beside that of Hugging Face's own class?"""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks import step_vs_hf
from benchmarks.report import Figure, medians, publish, two_threads

TOKENS = 1024
ROUNDS = 5
SHAPE = {
    "model_type": "qwen3_moe",
    "vocab_size": 4096,
    "hidden_size": 256,
    "intermediate_size": 512,
    "moe_intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "head_dim": 32,
    "num_experts": 64,
    "num_experts_per_tok": 8,
    "norm_topk_prob": True,
    "max_position_embeddings": TOKENS,
    "tie_word_embeddings": False,
}
ABOUT = (
    f"forward, loss on every token, backward and AdamW, fp32, qwen3_moe of {SHAPE['num_hidden_layers']} "
    f"layers of {SHAPE['hidden_size']}, {SHAPE['num_experts']} experts of {SHAPE['moe_intermediate_size']}, "
    f"{SHAPE['num_experts_per_tok']} of them a token; one document of {TOKENS} tokens, so that attention is "
    "the same on both sides, other tokens at every step; the same losses to 1e-4; medians of "
    f"{ROUNDS} alternating rounds; the block is the experts and their router alone, forward and backward; "
    f"packed documents: the row of {step_vs_hf.WIDTH} tokens of step_vs_hf"
)
Step = Callable[[], float]


def main() -> None:
    two_threads()
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = make(Path(folder) / "model")
        steps = {"ptw": ours(checkpoint)}
        blocks = {"ptw, the block": our_block(checkpoint)}
        for name in ("eager", "batched_mm", "grouped_mm"):
            model = theirs(checkpoint, name)
            steps[f"hf {name}"] = their_step(model)
            if name != "batched_mm":  # it copies a matrix a token
                blocks[f"hf {name}, the block"] = their_block(model)
        chosen = default_experts(checkpoint)
        for works in (steps, blocks):
            losses = {name: work() for name, work in works.items()}
            assert max(losses.values()) - min(losses.values()) < 1e-4 * max(losses.values()), losses
        rows = packed_rows(checkpoint)
        taken = medians(steps, ROUNDS) | medians(blocks, ROUNDS) | medians(rows, ROUNDS)
    widths = {name: step_vs_hf.WIDTH if name in rows else TOKENS for name in taken}
    figures = [Figure(f"{name}: tokens/s", widths[name] / took) for name, took in taken.items()]
    figures += [
        Figure("hf's default", chosen),
        Figure("ptw / hf's default, tokens/s", taken[f"hf {chosen}"] / taken["ptw"], want=3.0, better="more"),
        *(
            Figure(f"ptw / {name}, tokens/s", took / taken["ptw"])
            for name, took in taken.items()
            if name in steps and name not in ("ptw", f"hf {chosen}")
        ),
        *(
            Figure(f"ptw / {name}, tokens/s", took / taken["ptw, the block"])
            for name, took in taken.items()
            if name in blocks and not name.startswith("ptw")
        ),
    ]
    best = min(took for name, took in taken.items() if name in rows and "ptw" not in name)
    figures.append(
        Figure("packed documents: ptw / the best of hf, tokens/s", best / taken["packed documents: ptw"])
    )
    publish("moe_step_vs_hf", ABOUT, figures)


def packed_rows(checkpoint: Path) -> dict[str, Step]:
    """The row of skewed documents of step_vs_hf, in the forms that Hugging Face has for it."""
    lengths = step_vs_hf.skewed_lengths()
    forms = {"a row": False, "a document at a time": True}
    rows = {"packed documents: ptw": step_vs_hf.ours(checkpoint, lengths)}
    for form, alone in forms.items():
        name = f"packed documents: hf's default, {form}"
        rows[name] = step_vs_hf.theirs(checkpoint, lengths, "sdpa", alone=alone)
    losses = {name: work() for name, work in rows.items()}
    assert max(losses.values()) - min(losses.values()) < 1e-4 * max(losses.values()), losses
    return rows


def make(folder: Path) -> Path:
    """A checkpoint that both sides load: the same weights."""
    from ptw.ports.export import export
    from ptw.ports.load import create

    export(create(SHAPE, None, seed=0), folder)
    return folder


def batches() -> Callable[[], tuple[Tensor, Tensor]]:
    """Ids and targets, other ones at each call, so that experts get other numbers of tokens each time."""
    generator = torch.Generator().manual_seed(0)

    def batch() -> tuple[Tensor, Tensor]:
        ids_BT = torch.randint(0, int(str(SHAPE["vocab_size"])), (1, TOKENS), generator=generator)
        targets_BT = ids_BT.roll(-1, 1)
        targets_BT[0, -1] = -100
        return ids_BT, targets_BT

    return batch


def ours(checkpoint: Path) -> Step:
    from ptw.nn.layout import Layout
    from ptw.ports.load import load

    module: Any = load(checkpoint, None).module
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.0, fused=True)
    batch = batches()

    def step() -> float:
        ids_BT, targets_BT = batch()
        hidden_BTD = module(ids_BT, Layout.of_documents([[TOKENS]]))
        loss = module.head().loss(hidden_BTD, targets_BT) / (TOKENS - 1)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def theirs(checkpoint: Path, experts: str) -> Any:
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(
        checkpoint, attn_implementation="sdpa", experts_implementation=experts
    )
    return model.float().train()


def their_step(model: Any) -> Step:
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)
    batch = batches()

    def step() -> float:
        ids_BT, targets_BT = batch()
        loss = model(
            input_ids=ids_BT,
            labels=targets_BT,
            shift_labels=targets_BT,
            num_items_in_batch=torch.tensor(TOKENS - 1),
            use_cache=False,
        ).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return float(loss.detach())

    return step


def default_experts(checkpoint: Path) -> str:
    """What transformers takes where nothing is said."""
    from transformers import AutoModelForCausalLM

    return str(AutoModelForCausalLM.from_pretrained(checkpoint).config._experts_implementation)


def our_block(checkpoint: Path) -> Step:
    from ptw.ports.load import load

    return block_step(load(checkpoint, None).module.get_submodule("model.layers.0.mlp"))


def their_block(model: Any) -> Step:
    return block_step(model.get_submodule("model.layers.0.mlp"))


def block_step(block: Any) -> Step:
    generator = torch.Generator().manual_seed(1)

    def step() -> float:
        hidden_BTD = torch.randn(1, TOKENS, int(str(SHAPE["hidden_size"])), generator=generator)
        loss = block(hidden_BTD.requires_grad_()).square().sum()
        loss.backward()
        block.zero_grad()
        return float(loss.detach())

    return step


if __name__ == "__main__":
    main()
