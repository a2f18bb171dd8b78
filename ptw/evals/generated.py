"""Which items does a model generate next, as semantic IDs under the trie of the catalogue?"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from ptw.evals.cases import Case, Catalogue
from ptw.evals.later import Later, interleaved
from ptw.evals.ranking import MISSED, Ranked
from ptw.nn.beams import TOKENS_AT_ONCE, search
from ptw.tokens.tokenizer import Tokenizer, vocabulary_of
from ptw.tokens.trie import trie_of

BEAMS = 20
BEAMS_AT_ONCE = 64 * BEAMS  # of all prompts together: each holds keys and values of its own


class Generator:
    """Beams of a model over the items of its tokenizer's vocabulary; never an item outside of it.

    PtwError where the tokenizer has no vocabulary of semantic IDs, or several and none is named.
    """

    def __init__(
        self,
        module: nn.Module,
        tokenizer: Tokenizer,
        width: int,
        vocabulary: str | None = None,
        later: Later | None = None,
        together: bool = False,
    ) -> None:
        """`together`: of workers that hold a model between them, each of which must call it as often."""
        self.ids = vocabulary_of(tokenizer, vocabulary)
        self._module, self._width, self._in_parts = module, width, not together
        self._device = next(module.parameters()).device
        self._trie = trie_of(self.ids).to(self._device)
        self._tokens_LK = torch.tensor(tokenizer.code_ids(self.ids.name), device=self._device)
        self._later = later
        self._later_N = torch.tensor([later is not None and item in later.items for item in self.ids.items])

    def likeliest(
        self, prompts: Sequence[Sequence[int]], allowed_BN: Tensor | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """(B, W) rows of the vocabulary, the likeliest first, -1 beyond the last; (B, W) their scores.

        allowed_BN: bool, which items each prompt may get: filters by attribute, rules, what was seen. Where
        later items have a share of their own, scores are among them, and those of the others among the rest.
        """
        if self._later is None:
            return self._among(prompts, allowed_BN)
        allowed_BN = torch.ones(len(prompts), 1, dtype=torch.bool) if allowed_BN is None else allowed_BN.cpu()
        masks = (~self._later_N, self._later_N)
        earlier, later = (self._where_any(prompts, allowed_BN & mask_N) for mask_N in masks)
        return interleaved(earlier, later, self._later.share)

    def _where_any(
        self, prompts: Sequence[Sequence[int]], allowed_BN: Tensor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Nothing but -1 for prompts that may get nothing."""
        items_BW = np.full((len(prompts), self._width), -1)
        scores_BW = np.full((len(prompts), self._width), -np.inf, np.float32)
        asked = allowed_BN.any(-1).nonzero()[:, 0].tolist()
        if asked:
            found = self._among([prompts[at] for at in asked], allowed_BN[asked])
            items_BW[asked], scores_BW[asked] = found
        return items_BW, scores_BW

    def _among(
        self, prompts: Sequence[Sequence[int]], allowed_BN: Tensor | None
    ) -> tuple[np.ndarray, np.ndarray]:
        opened = None if allowed_BN is None else self._trie.allowing(allowed_BN.to(self._device))

        def children(depth: int, prompt_M: Tensor, node_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            owner_C, child_C, code_C = self._trie.children(depth, node_M)
            if opened is not None:
                kept = opened[depth + 1][prompt_M[owner_C], child_C]
                owner_C, child_C, code_C = owner_C[kept], child_C[kept], code_C[kept]
            return owner_C, child_C, self._tokens_LK[depth][code_C]

        steps, in_parts = self._trie.levels, self._in_parts
        nodes_BW, scores_BW = search(self._module, prompts, self._width, steps, children, in_parts)
        items_BW = torch.where(nodes_BW < 0, nodes_BW, self._trie.items_N[nodes_BW.clamp(min=0)])
        return items_BW.cpu().numpy(), scores_BW.cpu().numpy()


def width_for(top: int) -> int:
    """How many beams find lists of so many items, where nobody says it."""
    return max(BEAMS, 2 * top)


@torch.no_grad()
def generated(
    module: nn.Module,
    sequences: Sequence[Case],
    catalogue: Catalogue,
    tokenizer: Tokenizer,
    top: int,
    beams: int | None = None,
    later: Later | None = None,
    rank: int = 0,
    world: int = 1,
) -> list[Ranked]:
    """What came of each sequence of this worker's share; what it saw is not generated.

    The rank is the target's place among the beams, of equal scores the last, so that a constant one gains
    nothing; or MISSED. Of several workers each asks as often.
    """
    assert later is None or world == 1, "workers would not all ask as often"
    width = beams or width_for(top)
    generator = Generator(module, tokenizer, width, later=later, together=world > 1)
    number_of = np.array([catalogue.get(name) for name in generator.ids.items])
    row_of = np.argsort(number_of)
    found: dict[int, Ranked] = {}
    tokens = [width * (len(case.input.ids) + generator.ids.levels) for case in sequences]
    for together in _batches(tokens, BEAMS_AT_ONCE // width, world):
        own = together[rank::world]
        asked = [sequences[at] for at in own or together[:1]]  # whoever has none asks as the others do
        allowed_BN = torch.ones(len(asked), len(row_of), dtype=torch.bool)
        for place, case in enumerate(asked):
            allowed_BN[place, row_of[list(case.seen)]] = False
        rows_BW, scores_BW = generator.likeliest([case.input.ids.tolist() for case in asked], allowed_BN)
        for at, rows_W, scores_W in zip(own, rows_BW, scores_BW, strict=False):
            items_W = number_of[rows_W[rows_W >= 0]]
            place = _place(items_W, scores_W[rows_W >= 0], sequences[at].target)
            found[at] = Ranked(place, tuple(items_W[:top].tolist()))
    return [found[at] for at in sorted(found)]


def _batches(tokens: Sequence[int], most: int, world: int) -> Iterator[list[int]]:
    """Which prompts are asked together, those whose beams have few tokens first.

    A worker's share has as many as fit beside its longest, but no more than `most`; one always goes.
    """
    batch: list[int] = []
    for at in sorted(range(len(tokens)), key=tokens.__getitem__):
        rows = len(batch) // world + 1  # of a worker, with this one
        if rows > 1 and (rows > most or rows * tokens[at] > TOKENS_AT_ONCE):
            yield batch
            batch = []
        batch.append(at)
    if batch:
        yield batch


def _place(items_W: np.ndarray, scores_W: np.ndarray, target: int) -> int:
    alike = np.flatnonzero(np.isin(scores_W, scores_W[items_W == target]))
    return int(alike[-1]) + 1 if len(alike) else MISSED
