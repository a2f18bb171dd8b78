"""How do hidden states become logits or a loss, and how does the loss stay small in memory?"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache as once
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from ptw.nn.sampled import Drawn, sampled_losses

IGNORED = -100  # a target without a loss
CHUNK_ELEMENTS = 2**24  # logits held at a time: 64 MiB in fp32


@dataclass(frozen=True)
class Head:
    """The projection to the vocabulary. Rows of weight_VD from `vocabulary` on are padding.

    Hidden states are first divided by `divisor`; with a cap, logits x become cap * tanh(x / cap).
    """

    weight_VD: Tensor
    vocabulary: int
    divisor: float = 1.0
    cap: float | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., vocabulary) logits of hidden states (..., D); padded rows give none."""
        logits = functional.linear(self._divided(hidden), self.weight_VD[: self.vocabulary])
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap

    def wide_logits(self, hidden: Tensor, ids_I: Tensor | None = None) -> Tensor:
        """(..., I) logits of these ids (default: of all), in fp32 at least, whatever autocast says.

        To rank by: in bf16 many are equal. Weights are widened some at a time.
        """
        wide = torch.promote_types(self.weight_VD.dtype, torch.float32)
        with torch.autocast(hidden.device.type, enabled=False):
            if wide == self.weight_VD.dtype:
                logits = self.logits(hidden.to(wide))
                return logits if ids_I is None else logits[..., ids_I]
            if ids_I is None:
                ids_I = torch.arange(self.vocabulary, device=hidden.device)
            found = []
            for part in ids_I.split(max(1, CHUNK_ELEMENTS // self.weight_VD.shape[1])):
                head = replace(self, weight_VD=self.weight_VD[part].to(wide), vocabulary=len(part))
                found.append(head.logits(hidden.to(wide)))
            return torch.cat(found, dim=-1)

    def loss(
        self,
        hidden_BTD: Tensor,
        targets_BT: Tensor,
        *,
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        drawn: Drawn | None = None,
    ) -> Tensor:
        """The summed cross entropy of the targets; ignored ones (-100) are dropped before the projection.

        label_smoothing, z_loss: as of `Form`. drawn: of a sampled softmax, which knows neither.
        """
        if drawn is not None:
            return self.sampled_losses(hidden_BTD, targets_BT, drawn).sum()
        learnt = targets_BT != IGNORED
        return self.loss_of_all(hidden_BTD[learnt], targets_BT[learnt], label_smoothing, z_loss)

    def loss_of_all(
        self, hidden_MD: Tensor, targets_M: Tensor, label_smoothing: float = 0.0, z_loss: float = 0.0
    ) -> Tensor:
        """As `loss`, of targets none of which is ignored."""
        form = Form(self.cap, label_smoothing, z_loss)
        return linear_cross_entropy(
            self._divided(hidden_MD), self.weight_VD, targets_M, self.vocabulary, form
        )

    def sampled_losses(self, hidden_BTD: Tensor, targets_BT: Tensor, drawn: Drawn) -> Tensor:
        """(M,) losses of the targets that are not ignored, each against the drawn tokens alone."""
        learnt = targets_BT != IGNORED
        hidden_MD = self._divided(hidden_BTD[learnt])
        return sampled_losses(hidden_MD, self.weight_VD, targets_BT[learnt], drawn, self.cap)

    def log_probs(self, hidden_BTD: Tensor, targets_BT: Tensor, temperature: float = 1.0) -> Tensor:
        """(B, T) log-probabilities of the targets, 0 where they are ignored (-100); in fp32 at least.

        Of the softmax of logits / temperature. In chunks that the backward pass computes again: the logits
        never stand in memory whole.
        """
        learnt = targets_BT != IGNORED
        hidden_MD, targets_M = self._divided(hidden_BTD[learnt]), targets_BT[learnt]
        rows = max(1, CHUNK_ELEMENTS // self.vocabulary)
        weight, cap = self.weight_VD[: self.vocabulary], self.cap
        chunks = zip(hidden_MD.split(rows), targets_M.split(rows), strict=True)
        found = [
            checkpoint(_log_probs, hidden, weight, targets, cap, temperature, use_reentrant=False)
            for hidden, targets in chunks
        ]
        found_M = torch.cat(found)
        return found_M.new_zeros(targets_BT.shape).masked_scatter(learnt, found_M)

    def _divided(self, hidden: Tensor) -> Tensor:
        return hidden if self.divisor == 1.0 else hidden / self.divisor


def _log_probs(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, cap: float | None, temperature: float
) -> Tensor:
    logits = functional.linear(hidden_MD, weight_VD)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if cap is not None:
        logits = torch.tanh(logits / cap) * cap
    logits = logits / temperature
    return logits.gather(-1, targets_M[:, None]).squeeze(-1) - logits.logsumexp(-1)


@dataclass(frozen=True)
class Form:
    """How logits x become a token's loss: L - (1 - s) x[target] - s mean(x) + z L^2, L = log sum exp(x).

    s is label_smoothing (Szegedy et al., 2016; as torch's cross_entropy has it), z is z_loss (PaLM, 2022).
    With a cap x is cap * tanh(x / cap) before anything else. Means and sums are over the vocabulary.
    """

    cap: float | None = None
    label_smoothing: float = 0.0
    z_loss: float = 0.0


PLAIN = Form()


def linear_cross_entropy(
    hidden_MD: Tensor, weight_VD: Tensor, targets_M: Tensor, vocabulary: int, form: Form = PLAIN
) -> Tensor:
    """Summed cross entropy of `hidden @ weight.T`, in chunks: the logits never stand in memory whole.

    Rows of weight_VD from `vocabulary` on are padding: they take no part and get no gradient.
    """
    if hidden_MD.is_cuda and len(targets_M) and (liger := _liger()) is not None:
        loss: Tensor = liger(
            hidden_MD,
            weight_VD[:vocabulary],
            targets_M,
            reduction="sum",
            softcap=form.cap,
            label_smoothing=form.label_smoothing,
            lse_square_scale=form.z_loss,
        )
        return loss
    learning = torch.is_grad_enabled()
    total: Tensor = _ChunkedCrossEntropy.apply(hidden_MD, weight_VD, targets_M, vocabulary, form, learning)
    return total


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Gradients are made with the loss, chunk by chunk, so that no logits are kept or computed again."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden_MD: Tensor,
        weight_VD: Tensor,
        targets_M: Tensor,
        vocabulary: int,
        form: Form,
        learning: bool,
    ) -> Tensor:
        weight = weight_VD[:vocabulary]
        # torch asks for gradients under no_grad too
        wants_hidden, wants_weight = (learning and needed for needed in ctx.needs_input_grad[:2])
        grad_hidden = torch.empty_like(hidden_MD) if wants_hidden else None
        # a sum over many chunks: in bf16 each addition would round it
        wide = torch.promote_types(weight_VD.dtype, torch.float32)
        grad_weight = torch.zeros_like(weight_VD, dtype=wide) if wants_weight else None
        total = hidden_MD.new_zeros(()).float()
        rows = max(1, CHUNK_ELEMENTS // vocabulary)
        for start in range(0, len(targets_M), rows):
            hidden, targets = hidden_MD[start : start + rows], targets_M[start : start + rows, None]
            logits, slope = functional.linear(hidden, weight).float(), None
            if form.cap is not None:
                logits = logits.div_(form.cap).tanh_()
                slope = 1 - logits.square() if wants_hidden or wants_weight else None
                logits = logits.mul_(form.cap)
            log_total = logits.logsumexp(-1, keepdim=True)
            total = total + _summed_loss(logits, log_total, targets, form)
            if wants_hidden or wants_weight:
                grad = _gradient_in_place(logits, log_total, targets, form)
                grad = grad.mul_(slope) if slope is not None else grad
                grad = grad.to(weight.dtype)
                if grad_hidden is not None:
                    grad_hidden[start : start + rows] = grad @ weight
                if grad_weight is not None:
                    _add_product(grad_weight[:vocabulary], grad.T, hidden.to(weight.dtype))
        ctx.save_for_backward(grad_hidden, None if grad_weight is None else grad_weight.to(weight.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None, None]:
        grad_hidden, grad_weight = ctx.saved_tensors
        scale = upstream[0]
        return (
            None if grad_hidden is None else grad_hidden * scale.to(grad_hidden.dtype),
            None if grad_weight is None else grad_weight * scale.to(grad_weight.dtype),
            None,
            None,
            None,
            None,
        )


def _summed_loss(logits: Tensor, log_total: Tensor, targets: Tensor, form: Form) -> Tensor:
    smoothing = form.label_smoothing
    loss = log_total - (1 - smoothing) * logits.gather(-1, targets)
    if smoothing:
        loss = loss - smoothing * logits.mean(-1, keepdim=True)
    if form.z_loss:
        loss = loss + form.z_loss * log_total.square()
    return loss.sum()


def _gradient_in_place(logits: Tensor, log_total: Tensor, targets: Tensor, form: Form) -> Tensor:
    """Of the loss by the logits, in place of them: a scaled softmax minus what the target should be."""
    grad = logits.sub_(log_total).exp_()
    if form.z_loss:
        grad.mul_(1 + 2 * form.z_loss * log_total)
    if form.label_smoothing:
        grad.sub_(form.label_smoothing / logits.shape[-1])
    return grad.scatter_add_(-1, targets, grad.new_full(targets.shape, form.label_smoothing - 1))


def _add_product(total: Tensor, left: Tensor, right: Tensor) -> None:
    """total += left @ right, in the dtype of the total."""
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total.add_(left @ right)


@once
def _liger() -> Any:
    """Liger's fused kernel where it is installed."""
    try:
        from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy
    except ImportError:
        return None
    return liger_fused_linear_cross_entropy


def padded_rows(vocabulary: int, multiple: int = 64) -> int:
    """Rows of an embedding or head: the vocabulary rounded up, so that kernels and shards divide it."""
    return -(-vocabulary // multiple) * multiple
