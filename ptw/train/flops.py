"""How much work is a training step? The FLOPs that MFU holds against the device's peak.

As in PaLM (Chowdhery et al., 2022, appendix B) only products of matrices are counted, and what is computed
twice to save memory is counted once: that would be HFU. Other than there, what a training step has no use for
is no work either: padding, the half of attention that is masked out, other documents of a packed row, keys
beyond a window, experts that a token did not choose, the head on tokens without a loss, gradients of frozen
matrices and below the first trained layer. PaLM counts all of a row's squared length, so its figure is the
higher one for the same speed.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor, nn

from ptw.nn._products import FLOPS, Products
from ptw.nn.layout import Layout

TOKENS = (2, 3)  # of the documents that are computed to see what a model computes


@dataclass(frozen=True)
class Work:
    """FLOPs of a training step, forward and backward."""

    per_token: float  # of each token in the blocks' matrices
    per_target: float  # of each learnt token in the head
    per_pair: Mapping[int | None, float]  # of each pair of tokens in attention, by window (None: without)

    def step(self, lengths: Iterable[Iterable[int]], learnt: int) -> float:
        """On rows of documents of these lengths."""
        documents = [length for row in lengths for length in row]
        attention = sum(
            flops * sum(pairs(length, window) for length in documents)
            for window, flops in self.per_pair.items()
        )
        return float(self.per_token * sum(documents) + self.per_target * learnt + attention)


def pairs(length: int, window: int | None) -> int:
    """Of a document's tokens with those that they attend to: themselves, and before them `window` - 1."""
    seen = length if window is None else min(length, window)
    return seen * (seen + 1) // 2 + (length - seen) * seen


def work_of(module: nn.Module) -> Work | None:
    """What a model computes, seen on short documents, before it is sharded; it may be on "meta".

    No family is known here: matrices, experts, heads, widths and windows are what the forward pass uses, and
    gradients those that parameters ask for. None where that does not say it: work that no pair of tokens has,
    such as a recurrent state's, or that does not grow with the tokens.
    """
    (hidden_BTD, short), (_, long) = (_counted(module, tokens) for tokens in TOKENS)
    if not short.is_whole or short.flops * TOKENS[1] != long.flops * TOKENS[0]:
        return None
    head = module.head()  # type: ignore[operator]
    gradients = hidden_BTD.requires_grad + head.weight_VD.requires_grad
    return Work(
        per_token=short.flops / TOKENS[0],
        per_target=FLOPS * head.vocabulary * head.weight_VD.shape[1] * (1 + gradients),
        per_pair=MappingProxyType(dict(short.attention)),
    )


def _counted(module: nn.Module, tokens: int) -> tuple[Tensor, Products]:
    device = next(module.parameters()).device
    layout = Layout.of_documents([[tokens]], device=device, backend="documents")
    ids_BT = torch.zeros(1, tokens, dtype=torch.int64, device=device)
    with torch.random.fork_rng([device] if device.type == "cuda" else []), Products() as counted:
        return module(ids_BT, layout), counted
