"""Whatever asks a head for the vocabulary's logits has few of them in memory at a time."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from ptw.nn import head as head_module
from ptw.nn import nucleus
from ptw.nn.head import Head, padded_rows
from ptw.nn.nucleus import drawable, log_probs_among
from ptw.train import contrast, divergence
from ptw.train.contrast import told_apart
from ptw.train.divergence import Divergence, Present, Stored, divergences
from tests.nn.test_head import LargestTensor

TOKENS, VOCABULARY, WIDTH = 50, 300, 8
AT_A_TIME = 4  # tokens


def random(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).requires_grad_()


HIDDEN, TAUGHT = random(TOKENS, WIDTH, seed=1), random(TOKENS, WIDTH, seed=2).detach()
HEAD = Head(random(padded_rows(VOCABULARY), WIDTH, seed=3), VOCABULARY, 0.3, 30.0)
TEACHER = Present(TAUGHT, Head(HEAD.weight_VD.detach(), VOCABULARY))
TARGETS = torch.arange(TOKENS) * 5
NONE = torch.empty(2, 0, dtype=torch.int64)


def in_a_nucleus() -> Tensor:
    among = drawable(HEAD, HIDDEN, TARGETS, 1.0, 0.5, 20)
    return log_probs_among(HEAD, HIDDEN, TARGETS, 1.0, among)


def from_what_was_stored(form: Divergence) -> Tensor:
    stored = Stored.of(TEACHER, VOCABULARY, 5, form.temperature)
    return divergences(HIDDEN, HEAD, stored, form, VOCABULARY)


PATHS: dict[str, Callable[[], Tensor]] = {
    "log_probs": lambda: HEAD.log_probs(HIDDEN[None], TARGETS[None], 0.7),
    "nucleus": in_a_nucleus,
    "all drawable": lambda: log_probs_among(HEAD, HIDDEN, TARGETS, 0.7, None),
    "told apart": lambda: told_apart(HIDDEN, HEAD.weight_VD, TARGETS, NONE, 0.05)[0],
    "stored": lambda: from_what_was_stored(Divergence("reverse", 2.0)),
    **{
        kind: lambda kind=kind: divergences(HIDDEN, HEAD, TEACHER, Divergence(kind, 2.0), VOCABULARY)
        for kind in ("forward", "reverse", "jsd")
    },
}


def held(path: str, monkeypatch: pytest.MonkeyPatch, tokens: int) -> tuple[int, int]:
    """Elements of the largest tensor, forward and backward, and of all that wait for the backward pass."""
    for module in (head_module, nucleus, divergence, contrast):
        monkeypatch.setattr(module, "CHUNK_ELEMENTS", tokens * padded_rows(VOCABULARY))
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor.numel()
        return tensor

    with LargestTensor() as seen:
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            total = PATHS[path]().sum()
        total.backward()
    return seen.elements, sum(kept.values())


@pytest.mark.parametrize("path", PATHS)
def test_few_logits_stand_in_memory_forward_and_backward(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    largest, kept = held(path, monkeypatch, AT_A_TIME)
    assert largest <= HEAD.weight_VD.numel()
    assert kept <= HEAD.weight_VD.numel() + HIDDEN.numel()
    assert held(path, monkeypatch, TOKENS)[0] >= TOKENS * VOCABULARY
