"""What does the reference say to each case? The reference's process: asked after every port's has ended.

Imports transformers. One forward per document is the oracle for packing too: Hugging Face's own packed
forward leaks between documents in many families.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ptw.verify import reference
from ptw.verify.exact import exact
from ptw.verify.nudge import nudge

Tensors = dict[str, Tensor]


def trace(given: Path) -> Tensors:
    """logits (T, V), each document alone; decode.logits (R, steps + 1, V), each through its own cache;
    generated (R, new) and how far the second-best token was, generated.gap; nudged.KEY (V,)."""
    inputs = load_file(given / "inputs.safetensors")
    with exact(), torch.no_grad():
        model = reference.opened(given / "checkpoint")
        documents = inputs["ids"].split(inputs["lengths"].tolist())
        found = {"logits": torch.cat([reference.forward(model, document) for document in documents])}
        found |= _decoded(model, documents, inputs)
        if len(inputs["nudged"]):
            found |= _nudged(model, load_file(given / "checkpoint" / "model.safetensors"), inputs["nudged"])
    return {name: tensor.contiguous() for name, tensor in found.items()}


def trace_export(given: Path, export: Path) -> Tensors:
    """Both checkpoints opened as any user of transformers would, in their own dtype."""
    inputs = load_file(given / "inputs.safetensors")
    ids = inputs["ids"][: int(inputs["lengths"][0]) + int(inputs["lengths"][1])]
    original, _ = _opened_plainly(given / "checkpoint")
    exported, problems = _opened_plainly(export)
    with torch.no_grad():
        return {
            "original.logits": original(ids[None], use_cache=False).logits[0],
            "export.logits": exported(ids[None], use_cache=False).logits[0],
            "export.problems": torch.tensor(problems),
        }


def _decoded(model: nn.Module, documents: tuple[Tensor, ...], inputs: Tensors) -> Tensors:
    steps, new_tokens = int(inputs["decode_steps"]), int(inputs["new_tokens"])
    logits, generated, gaps = [], [], []
    for place, prefill in torch.stack([inputs["decode_document"], inputs["decode_prefill"]]).T.tolist():
        ids = documents[place]
        logits.append(_stepped(model, ids, prefill, steps))
        tokens, gap = _generated(model, ids[:prefill], new_tokens)
        generated.append(tokens)
        gaps.append(gap)
    return {
        "decode.logits": torch.stack(logits),
        "generated": torch.stack(generated),
        "generated.gap": torch.stack(gaps),
    }


def _stepped(model: nn.Module, ids: Tensor, prefill: int, steps: int) -> Tensor:
    model = reference.fresh(model)
    answer = model(ids[None, :prefill], use_cache=True)
    logits = [answer.logits[0, -1]]
    for place in range(prefill, prefill + steps):
        answer = model(ids[None, place : place + 1], past_key_values=answer.past_key_values, use_cache=True)
        logits.append(answer.logits[0, -1])
    return torch.stack(logits)


def _generated(model: Any, prompt: Tensor, new_tokens: int) -> tuple[Tensor, Tensor]:
    model = reference.fresh(model)
    model.generation_config.eos_token_id = None
    answer = model.generate(
        prompt[None],
        attention_mask=torch.ones_like(prompt)[None],
        max_new_tokens=new_tokens,
        do_sample=False,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    best = torch.cat(answer.logits).topk(2).values
    return answer.sequences[0, len(prompt) :], (best[:, 0] - best[:, 1]) / best[:, 0].abs()


def _nudged(model: Any, state: Tensors, ids: Tensor) -> Tensors:
    """The last token's logits with one tensor of the checkpoint changed, for each in turn."""
    found = {}
    model = reference.fresh(model)  # once: the document is shorter than any bound that a model remembers
    held = model.state_dict(keep_vars=True)
    for key, tensor in state.items():
        held[key].data.copy_(nudge(key, tensor))
        found[f"nudged.{key}"] = model(ids[None], use_cache=False).logits[0, -1]
        held[key].data.copy_(tensor)
    return found


def _opened_plainly(folder: Path) -> tuple[Any, int]:
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto",
        attn_implementation="eager",
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    return model.eval(), sum(len(keys) for name, keys in info.items() if name.endswith(("_keys", "_msgs")))


def main(requests: list[dict[str, str]]) -> None:
    """Each request names `given`, where to `write`, and `export` when that is what to look at."""
    for request in requests:
        given, target = Path(request["given"]), Path(request["write"])
        try:
            found = trace_export(given, Path(request["export"])) if "export" in request else trace(given)
        except Exception as error:  # an export that can't be opened fails its own case only
            target.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
            continue
        save_file(found, target)


if __name__ == "__main__":
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    transformers.AutoModelForCausalLM  # noqa: B018 - imported now, while ports run; what to do is said later
    main(json.loads(sys.stdin.read()))
