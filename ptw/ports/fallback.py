"""How is a model without a port trained? By Hugging Face's own class, behind a port's interface."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.nn import functional

from ptw.errors import PtwError
from ptw.nn.cache import KVCache
from ptw.nn.head import Head
from ptw.nn.layout import Layout
from ptw.ports.checkpoint import demand_floats, open_checkpoint
from ptw.ports.grow import Growth

NOTES = (
    "no port: Hugging Face's own class runs, each document alone and padded",
    "off without a port: packed attention, the KV cache of `ptw generate`, `ptw verify`",
)


class ReferenceModel(nn.Module):
    """Hugging Face's causal model, one document a row: its own packed forward leaks in many families."""

    has_cache = False

    def __init__(self, reference: Any) -> None:
        super().__init__()
        self.reference = reference

    def forward(self, ids_BT: Tensor, layout: Layout, cache: KVCache | None = None) -> Tensor:
        assert cache is None, "a model without a port has no KV cache"
        documents = list(_documents(ids_BT, layout))
        width = max(len(document) for document in documents)
        padded = torch.stack([functional.pad(document, (0, width - len(document))) for document in documents])
        steps = torch.arange(width, device=ids_BT.device)
        mask = torch.stack([steps < len(document) for document in documents]).long()
        hidden = self.reference.base_model(input_ids=padded, attention_mask=mask, use_cache=False)[0]
        return _repack(hidden, layout)

    def head(self) -> Head:
        projection = self.reference.get_output_embeddings()
        return Head(projection.weight, self.reference.config.get_text_config().vocab_size)


def load_reference(
    folder: Path, dtype: torch.dtype | None, device: torch.device | str, growth: Growth | None = None
) -> tuple[ReferenceModel, tuple[str, ...]]:
    """Hugging Face's class of a checkpoint, and what is off with it; PtwError where it does not fit."""
    from transformers import AutoModelForCausalLM

    checkpoint = open_checkpoint(folder)
    try:
        reference, report = AutoModelForCausalLM.from_pretrained(
            folder, dtype=dtype or "auto", local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, SafetensorError) as error:
        where = checkpoint.place()
        raise PtwError(f"{where}: transformers can't load it, and there is no port: {error}") from error
    if faults := sorted(report["missing_keys"]) + sorted(report["unexpected_keys"]):
        raise PtwError(f"{checkpoint.place()}: missing or unexpected tensors: {', '.join(faults[:4])}")
    weights = {name for name, _ in reference.named_parameters(remove_duplicate=False)}
    demand_floats(checkpoint, sorted(weights & checkpoint.files.keys()))
    if growth is not None:
        _grow(reference, growth)
    model = ReferenceModel(reference.to(device))
    _assert_plain_head(model, folder)
    return model, NOTES


@torch.no_grad()
def _grow(reference: Any, growth: Growth) -> None:
    """Its tables of tokens with their new rows, by transformers' own means."""
    tables = {id(t.weight): t for t in (reference.get_input_embeddings(), reference.get_output_embeddings())}
    before = [table.weight.detach().clone() for table in tables.values()]
    reference.resize_token_embeddings(max(len(before[0]), growth.end), mean_resizing=False)
    after = {id(t.weight): t for t in (reference.get_input_embeddings(), reference.get_output_embeddings())}
    for table, old_VD in zip(after.values(), before, strict=True):
        table.weight.copy_(growth.table(old_VD))


def reference_tensors(module: nn.Module, state: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The checkpoint tensors of a ReferenceModel: a tied one once."""
    reference: Any = module.reference
    tied = set(getattr(reference, "_tied_weights_keys", None) or {})
    is_tied = reference.config.get_text_config().tie_word_embeddings
    for name, tensor in state.items():
        plain = name.removeprefix("reference.")
        if not (is_tied and plain in tied):
            yield plain, tensor


def _documents(ids_BT: Tensor, layout: Layout) -> Iterator[Tensor]:
    lengths = [length for row in layout.lengths for length in row]
    yield from ids_BT[layout.documents_BT >= 0].split(lengths)


def _repack(hidden: Tensor, layout: Layout) -> Tensor:
    """The rows of the packed batch from one row a document; padding is zero."""
    lengths = [length for row in layout.lengths for length in row]
    packed_BTD = hidden.new_zeros(*layout.documents_BT.shape, hidden.shape[-1])
    packed_BTD[layout.documents_BT >= 0] = torch.cat(
        [row_TD[:length] for row_TD, length in zip(hidden, lengths, strict=True)]
    )
    return packed_BTD


@torch.no_grad()
def _assert_plain_head(model: ReferenceModel, folder: Path) -> None:
    """Hidden states times the head must be the class's own logits: scaled or capped logits would be lost."""
    device = next(model.parameters()).device
    ids = torch.arange(1, 9, device=device)[None] % model.head().vocabulary
    was_training = model.training
    model.eval()
    hidden = model(ids, Layout.of_documents([[8]], device=device))
    ours, theirs = model.head().logits(hidden), model.reference(input_ids=ids, use_cache=False).logits
    model.train(was_training)
    if not torch.allclose(ours.float(), theirs[..., : ours.shape[-1]].float(), rtol=1e-3, atol=1e-3):
        raise PtwError(
            f"{folder}: this family changes its logits after the head (a cap, a scale or a bias), "
            "which needs a port: add models/<model_type>.py"
        )
