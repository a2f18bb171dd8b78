"""On what shape is a family's speed taken? Its plain one made wider, if the reference takes that.

Runs in the reference's process. No weights are written: each side draws them by their names.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ptw.verify.reference import speed
from ptw.verify.reference.hf import config_class, saved_names
from ptw.verify.timing import NAMES

WIDTH, VOCABULARY = 256, 8192
HIDDEN = ("hidden_size", "d_model", "n_embd")
WIDENED = ("_size", "_dim", "_rank", "sliding_window", "d_model", "n_embd", "n_inner")
KEPT = ("vocab_size", "chunk_size_feed_forward", "rotary_dim")
TOKENS = 512
PROMPTS, PROMPT_TOKENS, STEPS = 4, 64, 24


def main(request: dict[str, Any]) -> None:
    """The case in request["folder"], of the configuration in request["plain"]; else why there is none."""
    folder = Path(request["folder"])
    values = enlarged(json.loads((Path(request["plain"]) / "config.json").read_text()))
    try:
        with torch.device("meta"):
            config_class(values["model_type"])
            (folder / "checkpoint").mkdir(parents=True)
            (folder / "checkpoint" / "config.json").write_text(json.dumps(values))
            model = speed.opened(folder / "checkpoint", torch.float32, "meta")
        (folder / NAMES).write_text(json.dumps(saved_names(model)))
    except Exception as error:
        shutil.rmtree(folder, ignore_errors=True)
        Path(request["error"]).write_text(f"{type(error).__name__}: {error}")
        return
    save_file(_inputs(values["vocab_size"]), folder / "inputs.safetensors")


def enlarged(values: dict[str, Any]) -> dict[str, Any]:
    """Every width times the same, so that what fits together still does; heads and layers as they are."""
    hidden = next((values[name] for name in HIDDEN if isinstance(values.get(name), int)), WIDTH)
    factor = max(1, -(-WIDTH // hidden))
    found = {
        key: value * factor if type(value) is int and key.endswith(WIDENED) and key not in KEPT else value
        for key, value in values.items()
    }
    found["vocab_size"] = max(VOCABULARY, values.get("vocab_size", 0))
    if "max_position_embeddings" in values:
        found["max_position_embeddings"] = max(2 * TOKENS, values["max_position_embeddings"])
    return found


def _inputs(vocabulary: int) -> dict[str, Tensor]:
    """One row of documents, most of them short and one long, as chats are; targets are shifted already."""
    lengths = torch.tensor([TOKENS // 2, *[TOKENS // 8] * 2, *[TOKENS // 32] * 8])
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(3, vocabulary, (1, TOKENS), generator=generator)
    targets = ids.roll(-1, 1)
    targets[0, lengths.cumsum(0) - 1] = -100
    return {
        "speed.lengths": lengths,
        "speed.ids": ids,
        "speed.targets": targets,
        "speed.prompts": torch.randint(3, vocabulary, (PROMPTS, PROMPT_TOKENS), generator=generator),
        "speed.tokens": torch.randint(3, vocabulary, (PROMPTS, STEPS), generator=generator),
    }
