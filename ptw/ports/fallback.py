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
from ptw.ports.classifier import class_of
from ptw.ports.counted import attention_told
from ptw.ports.grow import Growth
from ptw.ports.scores import SCORES, Scores, new_scores, stored_scores

# how transformers says that it can't make a model of a config
REFUSALS = (OSError, ValueError, RuntimeError, KeyError, ImportError)
NOTES = (
    "no port: Hugging Face's own class runs, each document alone and padded",
    "off without a port: packed attention, the KV cache of `ptw generate`, `ptw verify`",
)


class ReferenceModel(nn.Module):
    """Hugging Face's causal model or classifier, a document a row: packed forwards leak in many families."""

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
        with attention_told(self.reference):
            hidden = self.reference.base_model(input_ids=padded, attention_mask=mask, use_cache=False)[0]
        return _repack(hidden, layout)

    def head(self) -> Head:
        if (scores := getattr(self.reference, "score", None)) is not None:
            return Head(scores.weight, len(scores.weight))
        projection = self.reference.get_output_embeddings()
        return Head(projection.weight, self.reference.config.get_text_config().vocab_size)


def load_reference(
    folder: Path,
    dtype: torch.dtype | None,
    growth: Growth | None = None,
    scores: Scores | None = None,
) -> tuple[ReferenceModel, tuple[str, ...]]:
    """Hugging Face's class of a checkpoint, on the CPU, and what is off with it; PtwError if it does not fit.

    It is the one that gives scores where the checkpoint does, or where `scores` asks for new ones.
    """
    checkpoint = open_checkpoint(folder)
    hf_config = checkpoint.hf_config
    try:
        reference, report = _class(hf_config).from_pretrained(
            folder, dtype=dtype or "auto", local_files_only=True, output_loading_info=True
        )
    except (*REFUSALS, SafetensorError) as error:
        where = checkpoint.place()
        raise PtwError(f"{where}: transformers can't load it, and there is no port: {error}") from error
    if faults := sorted(report["missing_keys"]) + sorted(report["unexpected_keys"]):
        raise PtwError(f"{checkpoint.place()}: missing or unexpected tensors: {', '.join(faults[:4])}")
    weights = {name for name, _ in reference.named_parameters(remove_duplicate=False)}
    demand_floats(checkpoint, sorted(weights & checkpoint.files.keys()))
    if growth is not None:
        _grow(reference, growth)
    if scores is not None and not stored_scores(hf_config):
        reference = _giving_scores(reference, hf_config, scores, folder)
    model = ReferenceModel(reference)
    _assert_plain_head(model, folder)
    return model, NOTES


def _class(hf_config: Mapping[str, Any]) -> Any:
    from transformers import AutoModelForCausalLM

    return class_of(str(hf_config["model_type"])) if stored_scores(hf_config) else AutoModelForCausalLM


@torch.no_grad()
def _giving_scores(words: Any, hf_config: Mapping[str, Any], scores: Scores, folder: Path) -> Any:
    """The family's classifier around the decoder of its model of words."""
    config = words.config
    config.num_labels, config.pad_token_id = scores.labels, scores.pad_id
    with torch.device("meta"):
        reference = class_of(str(hf_config["model_type"]))(config)
    if not isinstance(getattr(reference, "score", None), nn.Linear):
        raise PtwError(f"{folder}: {type(reference).__name__} has no {SCORES}: it needs a port")
    setattr(reference, reference.base_model_prefix, words.base_model)
    drawn = new_scores(hf_config, scores, reference.score.weight.shape[1])
    reference.score.weight = nn.Parameter(drawn.value.to(words.dtype))
    return reference


@torch.no_grad()
def _grow(reference: Any, growth: Growth) -> None:
    """Its tables of tokens with their new rows, by transformers' own means."""
    before = [table.weight.detach().clone() for table in _tables(reference)]
    reference.resize_token_embeddings(max(len(before[0]), growth.end), mean_resizing=False)
    for table, old_VD in zip(_tables(reference), before, strict=True):
        table.weight.copy_(growth.table(old_VD))


def _tables(reference: Any) -> list[Any]:
    """Each once; a classifier has none of output."""
    found = [reference.get_input_embeddings(), reference.get_output_embeddings()]
    return list({id(table.weight): table for table in found if table is not None}.values())


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
    config = model.reference.config.get_text_config()
    usable = [id_ for id_ in range(1, min(config.vocab_size, 10)) if id_ != config.pad_token_id]
    ids = torch.tensor([usable], device=device)
    was_training = model.training
    model.eval()
    ours = model.head().logits(model(ids, Layout.of_documents([[len(usable)]], device=device)))
    theirs = model.reference(input_ids=ids, use_cache=False).logits
    model.train(was_training)
    if theirs.dim() == 2:  # scores are of the last token
        ours = ours[:, -1]
    if not torch.allclose(ours.float(), theirs[..., : ours.shape[-1]].float(), rtol=1e-3, atol=1e-3):
        raise PtwError(
            f"{folder}: this family changes its logits after the head (a cap, a scale or a bias), "
            "which needs a port: add models/<model_type>.py"
        )
