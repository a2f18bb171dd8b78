"""What does the reference say with an adapter on it? Hugging Face's class and PEFT itself.

Imports peft and transformers.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from ptw.errors import PtwError
from ptw.ports import adapter
from ptw.verify.reference import hf
from ptw.verify.reference.model import opened_plainly
from ptw.verify.subject import Tensors, arithmetic

FILES = {adapter.CONFIG, adapter.TENSORS}


class AdaptedReference:
    """Hugging Face's class with a checkpoint's weights and an adapter (see `subject.Adapted`)."""

    def __init__(self, checkpoint: Path, folder: Path) -> None:
        self.checkpoint, self.folder = checkpoint, folder

    def answers(self, ids: Tensor, lengths: Sequence[int], targets: Tensor) -> Tensors:
        """Each document alone, forward and back."""
        logits = []
        with arithmetic(exactly=True, gradients=True):
            model = _adapted(hf.opened(self.checkpoint), self.folder).double()
            pairs = zip(ids.split(list(lengths)), targets.split(list(lengths)), strict=True)
            for document, answers in pairs:
                said = hf.fresh(model)(input_ids=document[None], use_cache=False).logits[0]
                functional.cross_entropy(said, answers, reduction="sum", ignore_index=-100).backward()
                logits.append(said.detach())
        found = {f"gradient.{name}": own.grad for name, own in _own(model, self.folder).items()}
        return {name: tensor for name, tensor in found.items() if tensor is not None} | {
            "logits": torch.cat(logits)
        }

    def plainly(self, ids: Tensor, handed: Path) -> Tensors:
        """What PEFT makes of the adapter that was given, and of the port's copy of it: bits and logits."""
        _demand_plain(handed, self.folder)
        found: Tensors = {}
        with arithmetic(exactly=False):
            for name, folder in (("was", self.folder), ("saved", handed)):
                model = _adapted(opened_plainly(self.checkpoint)[0], folder)
                found[f"{name}.logits"] = model(input_ids=ids[None], use_cache=False).logits[0]
                found |= {f"{name}.pair.{key}": own for key, own in _own(model, folder).items()}
        return found


def _adapted(model: Any, folder: Path) -> Any:
    from peft import PeftModel

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # peft still asks transformers by old names
        return PeftModel.from_pretrained(model, str(folder), is_trainable=True).eval()


def _own(model: Any, folder: Path) -> dict[str, Tensor]:
    """The adapter's parameters, under the names of its file.

    PEFT may adapt more than the file holds (experts, where a dense layer has a name of theirs), which then
    starts at nothing and is none of it.
    """
    layers = adapter.read(folder).pairs
    held = {f"{adapter.PREFIX}{name}{end}" for name in layers for end in (adapter.DOWN, adapter.UP)}
    named = {name.replace(".default.", "."): own for name, own in model.named_parameters()}
    if dropped := sorted(held - set(named)):
        raise PtwError(f"PEFT leaves {dropped[0]} out of the reference")
    return {name: named[name] for name in sorted(held)}


def _demand_plain(handed: Path, given: Path) -> None:
    """A port wrote it: PEFT's configuration can name modules to import, and files that are unpickled."""
    if odd := {path.name for path in handed.iterdir()} - FILES:
        raise PtwError(f"the port's adapter holds what no adapter does: {sorted(odd)[0]}")
    settings = adapter.read(handed).settings
    written = json.loads((handed / adapter.CONFIG).read_text())
    if written != settings.as_peft() or settings != adapter.read(given).settings:
        raise PtwError("the port's adapter has another configuration than the one that it was given")
