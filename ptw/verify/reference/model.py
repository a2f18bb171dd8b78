"""How does the reference answer what a verifier asks? Hugging Face's own class, each document alone.

Imports transformers. One forward per document is the oracle for packing too: Hugging Face's own packed
forward leaks between documents in many families.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ptw.verify.reference import hf
from ptw.verify.subject import Tensors, arithmetic


class ReferenceModel:
    """Hugging Face's class with a checkpoint's weights (see `subject.Model`)."""

    def __init__(self, folder: Path, dtype: torch.dtype, exactly: bool) -> None:
        self.exactly = exactly
        with arithmetic(exactly):
            opened = hf.opened(folder) if exactly else hf.opened_at(folder, dtype)
        self.module: Any = opened

    def logits(self, ids_T: Tensor) -> Tensor:
        with arithmetic(self.exactly):
            return hf.forward(self.module, ids_T)

    def packed(self, ids: Tensor, inputs: Tensors, backends: Sequence[str] = ()) -> Tensors:
        return {}

    def decoded(self, inputs: Tensors) -> Tensors:
        documents = inputs["ids"].split(inputs["lengths"].tolist())
        steps, new_tokens = int(inputs["decode_steps"]), int(inputs["new_tokens"])
        logits, generated, gaps = [], [], []
        with arithmetic(self.exactly):
            pairs = torch.stack([inputs["decode_document"], inputs["decode_prefill"]]).T
            for place, prefill in pairs.tolist():
                logits.append(hf.stepped(self.module, documents[place][: prefill + steps], prefill))
                tokens, gap = self._generated(documents[place][:prefill], new_tokens)
                generated.append(tokens)
                gaps.append(gap)
        return {
            "logits": torch.stack(logits),
            "tokens": torch.stack(generated),
            "gap": torch.stack(gaps),
        }

    def rows(self, ids_BT: Tensor) -> Tensor:
        with arithmetic(self.exactly):
            logits: Tensor = hf.fresh(self.module)(ids_BT, use_cache=False).logits
            return logits

    def bounds(self, ids_T: Tensor) -> Tensor:
        return torch.tensor(sorted(set(_numbers(self.module.config.to_dict()))), dtype=torch.float64)

    def far(self, ids_T: Tensor, start: int) -> Tensor:
        positions_T = torch.arange(start, start + len(ids_T))
        told = "position_ids" in inspect.signature(self.module.forward).parameters
        if not told or hf.remembers(self.module):  # by the length of the document, not by its positions
            return torch.empty(0)
        with arithmetic(self.exactly), contextlib.suppress(IndexError):  # a table of positions ends
            logits: Tensor = self.module(ids_T[None], position_ids=positions_T[None], use_cache=False).logits
            return logits[0]
        return torch.empty(0)

    def losses(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensor:
        pairs = zip(ids.split(list(lengths)), targets.split(list(lengths)), strict=True)
        return torch.stack([self._loss(document, answers) for document, answers in pairs]).detach()

    def _loss(self, document: Tensor, answers: Tensor) -> Tensor:
        with arithmetic(self.exactly, gradients=True):
            logits = hf.fresh(self.module)(document[None], use_cache=False).logits[0]
            return functional.cross_entropy(logits.float(), answers, reduction="sum", ignore_index=-100)

    def gradients(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensors:
        self.module.zero_grad(set_to_none=True)
        total = torch.zeros((), dtype=torch.float64)
        pairs = zip(ids.split(list(lengths)), targets.split(list(lengths)), strict=True)
        with arithmetic(self.exactly, gradients=True):
            for document, answers in pairs:
                loss = self._loss(document, answers)
                loss.backward()
                total += loss.detach()
        parameters = dict(self.module.named_parameters(remove_duplicate=False))
        found = {name: parameters[name] for name in hf.saved_names(self.module) if name in parameters}
        gradients = {
            f"gradient.{name}": torch.zeros_like(parameter)
            if parameter.grad is None
            else parameter.grad.clone()
            for name, parameter in found.items()
        }
        self.module.zero_grad(set_to_none=True)
        return gradients | {"loss": total, "padded": torch.zeros_like(total)}

    def stored(self) -> Tensors:
        state = self.module.state_dict()
        names = hf.saved_names(self.module)
        return {name: torch.tensor(state[name].element_size() * 8) for name in names}

    @contextlib.contextmanager
    def changed(self, key: str, value: Tensor) -> Iterator[None]:
        held = self.module.state_dict(keep_vars=True)[key]
        before = held.detach().clone()
        held.data.copy_(value)
        try:
            yield
        finally:
            held.data.copy_(before)

    def _generated(self, prompt: Tensor, new_tokens: int) -> tuple[Tensor, Tensor]:
        module: Any = hf.fresh(self.module)
        module.generation_config.eos_token_id = None
        answer = module.generate(
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


def _numbers(value: Any) -> Iterator[float]:
    """All in a configuration, however deep."""
    if isinstance(value, dict | list | tuple):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _numbers(one)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        yield float(value)


def opened_plainly(folder: Path) -> tuple[Any, int]:
    """As any user of transformers would, in its own dtype; and how many keys did not fit."""
    from transformers import AutoModelForCausalLM

    model, info = AutoModelForCausalLM.from_pretrained(
        folder,
        dtype="auto",
        **hf.PLAIN,
        use_safetensors=True,
        local_files_only=True,
        output_loading_info=True,
    )
    return model.eval(), sum(len(keys) for name, keys in info.items() if name.endswith(("_keys", "_msgs")))


def otherwise(folder: Path, dtype: torch.dtype, ids_T: Tensor) -> Tensor:
    """(T, V) logits in this dtype by another attention than the one that is written out."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=dtype, attn_implementation="sdpa", use_safetensors=True, local_files_only=True
    )
    with arithmetic(exactly=False):
        logits: Tensor = model.eval()(ids_T[None], use_cache=False).logits[0]
    return logits
