"""How do tokens meet their experts? Sorted by expert, so that each matrix meets all of its tokens at once.

A training step is bound by its matrix products, then by writing the gradients of all experts' matrices. On a
CPU long products run in oneDNN, which builds a kernel for each number of rows: those of an expert are filled
up to one of a few numbers, so that kernels are found again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache as once
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from ptw.nn import _products
from ptw.nn._exchange import Trip, sharing

ALIGNED_BYTES = 16  # rows that grouped kernels of a GPU can read
FOURS = 4  # MKL's rows keep to themselves where every size is a multiple of it: a rest is summed otherwise
TAIL = 64  # rows; of what lies beyond a multiple of its vectors torch computes exp and its like otherwise
LONG = 96  # terms of a sum from which on oneDNN saves more than the copy of what it made takes


@dataclass(frozen=True, eq=False)
class Groups:
    """Which rows each expert gets: R rows sorted by expert, among them the filler of a group's end.

    token_R: the token of each row (filler has token 0, and no gradient). row_TK: the row of each choice.
    ends_E: where each group ends, int32; rows after the last end are nobody's. sizes: rows of each group,
    where a loop over experts needs them. way: where tokens come from several processes, this one's own rows,
    sorted by the experts of all, and their trip to here.
    """

    token_R: Tensor
    row_TK: Tensor
    ends_E: Tensor
    sizes: tuple[int, ...] | None
    way: tuple[Groups, Trip] | None = None

    @classmethod
    def of(cls, choice_TK: Tensor, experts: int) -> Groups:
        """From the experts that each token chose; an expert may have been chosen by none.

        Where processes share the experts, the groups are those of this one's, with tokens from all of them.
        """
        if (shared := sharing()) is None:
            return cls._of(choice_TK, experts, filled=choice_TK.is_cpu)
        shared.dealt += 1
        home = cls._of(choice_TK, experts, filled=False)
        trip = Trip.of(home.ends_E.long().diff(prepend=home.ends_E.new_zeros(1)), shared.group)
        here = cls._of(trip.expert_S[:, None], experts // shared.group.size(), filled=choice_TK.is_cpu)
        return replace(here, way=(home, trip))

    @classmethod
    def _of(cls, choice_TK: Tensor, experts: int, filled: bool) -> Groups:
        sorted_R, order_R = choice_TK.flatten().sort(stable=True)
        ends_E = torch.searchsorted(sorted_R, torch.arange(experts, device=choice_TK.device), right=True)
        row_R = torch.arange(len(order_R), device=choice_TK.device)
        rows, sizes = len(order_R), None
        if filled and not _has_values(choice_TK):
            rows = _rows_on_average(rows, experts)
        elif filled:  # where a loop needs the sizes, and reading them waits for nothing
            counts_E = ends_E.diff(prepend=ends_E.new_zeros(1))
            sizes = tuple(_filled(count) for count in counts_E.tolist())
            filled_E = torch.tensor(sizes).cumsum(0)
            row_R = row_R + (filled_E - torch.tensor(sizes) - (ends_E - counts_E))[sorted_R]
            ends_E, rows = filled_E, -(-sum(sizes) // TAIL) * TAIL
        token_R = order_R.new_zeros(rows)
        token_R[row_R] = order_R // choice_TK.shape[1]
        row_TK = torch.empty_like(order_R)
        row_TK[order_R] = row_R
        return cls(token_R, row_TK.view(choice_TK.shape), ends_E.int(), sizes)

    def rows(self, hidden_TD: Tensor) -> Tensor:
        """(R, D): each token's hidden state in the rows of its experts."""
        if self.way is not None:
            home, trip = self.way
            hidden_TD = trip.there(home.rows(hidden_TD))
        rows: Tensor = _Spread.apply(hidden_TD, self.token_R, self.row_TK)
        return rows

    def sum(self, out_RD: Tensor, weight_TK: Tensor) -> Tensor:
        """(T, D): what its experts gave each token, weighted; both in one dtype, which the result has."""
        if self.way is not None:
            home, trip = self.way
            return home.sum(trip.back(out_RD.index_select(0, self.row_TK[:, 0])), weight_TK)
        if out_RD.dtype != weight_TK.dtype:  # under autocast some of what gives the weights is in fp32
            wide = torch.promote_types(out_RD.dtype, weight_TK.dtype)
            out_RD, weight_TK = out_RD.to(wide), weight_TK.to(wide)
        kind = "cpu" if out_RD.is_meta else out_RD.device.type
        # element by element, whatever computes it
        with _products.inside(), torch.autocast(kind, enabled=False):
            summed: Tensor = _WeightedSum.apply(out_RD, weight_TK, self.token_R, self.row_TK)
        return summed

    def experts(self) -> Tensor:
        """(R,): the expert of each row."""
        rows = torch.arange(len(self.token_R), device=self.token_R.device, dtype=self.ends_E.dtype)
        return torch.searchsorted(self.ends_E, rows, right=True)


def grouped_linear(
    rows_RI: Tensor, weight_EOI: Tensor, groups: Groups, bias_EO: Tensor | None = None
) -> Tensor:
    """(R, O): each row times its expert's matrix, plus its expert's bias; under autocast in its dtype."""
    if _is_autocast(rows_RI):
        computed_in = torch.get_autocast_dtype(rows_RI.device.type)
        rows_RI, weight_EOI = rows_RI.to(computed_in), weight_EOI.to(computed_in)
        bias_EO = None if bias_EO is None else bias_EO.to(computed_in)
    with _products.of_experts(groups.row_TK.numel(), rows_RI, weight_EOI):
        return _grouped_linear(rows_RI, weight_EOI, groups, bias_EO)


def _grouped_linear(rows_RI: Tensor, weight_EOI: Tensor, groups: Groups, bias_EO: Tensor | None) -> Tensor:
    if not _has_values(rows_RI):
        return rows_RI @ weight_EOI[0].T  # of the same shape: nobody knows the groups
    if groups.sizes is None and _kernels_take(rows_RI, weight_EOI):
        out_RO: Tensor = functional.grouped_mm(rows_RI, weight_EOI.transpose(1, 2), offs=groups.ends_E)
        return out_RO if bias_EO is None else out_RO + bias_EO[groups.experts()]
    sizes = groups.sizes or tuple(groups.ends_E.diff(prepend=groups.ends_E.new_zeros(1)).tolist())
    looped: Tensor = _Looped.apply(rows_RI, weight_EOI, bias_EO, sizes)
    return looped


class _Spread(torch.autograd.Function):
    """A gather whose gradient is a gather too: adding up by index is slow, and in no fixed order on a GPU."""

    @staticmethod
    def forward(ctx: Any, hidden_TD: Tensor, token_R: Tensor, row_TK: Tensor) -> Tensor:
        ctx.save_for_backward(row_TK)
        return hidden_TD.index_select(0, token_R)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, None, None]:
        (row_TK,) = ctx.saved_tensors
        return upstream[0].index_select(0, row_TK.flatten()).unflatten(0, row_TK.shape).sum(1), None, None


class _WeightedSum(torch.autograd.Function):
    """Gathers, and products of small batches; filler gets a gradient of 0."""

    @staticmethod
    def forward(ctx: Any, out_RD: Tensor, weight_TK: Tensor, token_R: Tensor, row_TK: Tensor) -> Tensor:
        out_TKD = out_RD.index_select(0, row_TK.flatten()).unflatten(0, row_TK.shape)
        ctx.save_for_backward(out_TKD, weight_TK, token_R, row_TK)
        sum_TD = out_TKD.new_empty(len(out_TKD), out_TKD.shape[2])  # no view of another: FSDP2 warns of those
        torch.bmm(weight_TK[:, None], out_TKD, out=sum_TD[:, None])
        return sum_TD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor, Tensor, None, None]:
        out_TKD, weight_TK, token_R, row_TK = ctx.saved_tensors
        grad_TD = upstream[0]
        weight_R = weight_TK.new_zeros(len(token_R))
        weight_R[row_TK.flatten()] = weight_TK.flatten()
        grad_RD = grad_TD.index_select(0, token_R).mul_(weight_R[:, None])
        return grad_RD, torch.bmm(out_TKD, grad_TD[:, :, None])[:, :, 0], None, None


class _Looped(torch.autograd.Function):
    """One product an expert, forward; two, backward. Experts without rows cost nothing and get zeros."""

    @staticmethod
    def forward(
        ctx: Any, rows_RI: Tensor, weight_EOI: Tensor, bias_EO: Tensor | None, sizes: tuple[int, ...]
    ) -> Tensor:
        ctx.save_for_backward(rows_RI, weight_EOI)
        ctx.sizes = sizes
        out_RO = rows_RI.new_empty(len(rows_RI), weight_EOI.shape[1])
        start = 0
        for expert, size in enumerate(sizes):
            rows = slice(start, start + size)
            start += size
            if size:
                _product(rows_RI[rows], weight_EOI[expert], out_RO[rows], apart=True)
                if bias_EO is not None:
                    out_RO[rows] += bias_EO[expert]
        out_RO[start:] = 0.0
        return out_RO

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *upstream: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        rows_RI, weight_EOI = ctx.saved_tensors
        wants_rows, wants_weight, wants_bias, _ = ctx.needs_input_grad
        grad_rows = torch.empty_like(rows_RI) if wants_rows else None
        grad_weight = torch.empty_like(weight_EOI) if wants_weight else None
        grad_bias = weight_EOI.new_zeros(weight_EOI.shape[:2]) if wants_bias else None
        start = 0
        for expert, size in enumerate(ctx.sizes):
            rows = slice(start, start + size)
            grad = upstream[0][rows]
            start += size
            if size and grad_rows is not None:
                _product(grad, weight_EOI[expert].T, grad_rows[rows])
            if size and grad_weight is not None:
                _product(grad.T, rows_RI[rows].T, grad_weight[expert])
            elif grad_weight is not None:
                grad_weight[expert] = 0.0
            if grad_bias is not None:
                grad_bias[expert] = grad.sum(0)
        if grad_rows is not None:
            grad_rows[start:] = 0.0
        return grad_rows, grad_weight, grad_bias, None


def _product(left_MI: Tensor, right_OI: Tensor, out_MO: Tensor, apart: bool = False) -> None:
    """out = left @ right.T. `apart`: the bits of a row of the left must not depend on the other rows.

    Which kernel is taken depends on the summed width alone, so that it is the same for groups of any size.
    MKL's long rows are not apart on an Intel, so that only gradients are its work there.
    """
    long = left_MI.shape[1] >= LONG and left_MI.dtype == torch.float32 and not left_MI.is_cuda
    if long and (apart or _is_mkl_slow()) and (fast := _one_dnn()) is not None:
        out_MO.copy_(fast(left_MI, right_OI, None, "none", [], ""))
        return
    summed, width = -left_MI.shape[1] % FOURS, -right_OI.shape[0] % FOURS
    if apart and (summed or width):
        left, right = functional.pad(left_MI, (0, summed)), functional.pad(right_OI, (0, summed, 0, width))
        out_MO.copy_(torch.mm(left, right.T)[:, : right_OI.shape[0]])
    else:
        torch.mm(left_MI, right_OI.T, out=out_MO)


@once
def _one_dnn() -> Any:
    """oneDNN's fp32 product, where torch would ask MKL."""
    operators = torch.ops.mkldnn
    return operators._linear_pointwise if hasattr(operators, "_linear_pointwise") else None


@once
def _is_mkl_slow() -> bool:
    """It is half as fast as oneDNN on other makers' processors than Intel's."""
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:
            return "GenuineIntel" not in file.read()
    except OSError:  # no Linux
        return True


def _has_values(tensor: Tensor) -> bool:
    """Not on the meta device, nor where a model is computed for its shapes alone."""
    return not (tensor.is_meta or isinstance(tensor, torch._subclasses.FakeTensor))


def _rows_on_average(rows: int, experts: int) -> int:
    """How many `rows` become with the filler of groups that are about even: half a step each."""
    even = -(-rows // experts)
    return -(-experts * (even + _step(even) // 2) // TAIL) * TAIL


def _is_autocast(tensor: Tensor) -> bool:
    """The meta device knows nothing of it."""
    return not tensor.is_meta and torch.is_autocast_enabled(tensor.device.type)


def _filled(count: int) -> int:
    """The next of a few sizes an octave, by fours: in a rest of less, a row's bits depend on its place."""
    return -(-count // _step(count)) * _step(count)


def _step(count: int) -> int:
    return FOURS << max(0, count.bit_length() - 6)


def _kernels_take(rows_RI: Tensor, weight_EOI: Tensor) -> bool:
    """Whether the GPU's grouped kernels take this dtype and these widths."""
    widths = (weight_EOI.shape[1], weight_EOI.shape[2])
    return rows_RI.dtype == torch.bfloat16 and not any(width * 2 % ALIGNED_BYTES for width in widths)
