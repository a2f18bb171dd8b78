"""Beams under a trie are the best sequences that are allowed, and no others."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ptw.nn import beams
from ptw.nn.beams import search
from ptw.nn.layout import Layout
from ptw.ports.load import create
from ptw.tokens.semantic import SemanticIds
from ptw.tokens.trie import Trie, trie_of

SIZE, LEVELS = 6, 3
PROMPTS = [[1, 5, 9], [1, 7], [1, 3, 4, 8, 12, 3]]
TOKENS_LK = torch.arange(3, 3 + LEVELS * SIZE).view(LEVELS, SIZE)


@pytest.fixture(scope="module")
def ids() -> SemanticIds:
    codes = np.unique(np.random.default_rng(0).integers(0, SIZE, (60, LEVELS)), axis=0).astype(np.int32)
    return SemanticIds("films", SIZE, tuple(f"f{n}" for n in range(len(codes))), codes)


@pytest.fixture(scope="module", params=["cached", "recomputed"])
def model(request: pytest.FixtureRequest, repository: Path) -> nn.Module:
    config = {
        "model_type": "llama",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "vocab_size": 3 + LEVELS * SIZE,
        "initializer_range": 0.5,  # so that likelihoods differ
    }
    module = create(config, repository, seed=0, dtype=torch.float64).module.eval()
    module.has_cache = request.param == "cached"  # type: ignore[assignment]
    return module


def below(trie: Trie, allowed_BN: Tensor, tokens_LK: Tensor = TOKENS_LK):  # type: ignore[no-untyped-def]
    opened = trie.allowing(allowed_BN)

    def children(depth: int, prompt_M: Tensor, node_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        owner, child, code = trie.children(depth, node_M)
        kept = opened[depth + 1][prompt_M[owner], child]
        return owner[kept], child[kept], tokens_LK[depth][code[kept]]

    return children


@torch.no_grad()
def likelihoods(
    model: nn.Module, ids: SemanticIds, prompt: list[int], rows: list[int]
) -> list[tuple[float, int]]:
    """Each allowed item with its log-probability."""
    found = []
    for row in rows:
        codes, total, known = ids.codes_NL[row], 0.0, list(prompt)
        for level in range(LEVELS):
            hidden = model(torch.tensor([known]), Layout.of_documents([[len(known)]]))
            log_probs = model.head().logits(hidden[0, -1]).log_softmax(-1)  # type: ignore[operator]
            total += log_probs[TOKENS_LK[level, codes[level]]].item()
            known.append(int(TOKENS_LK[level, codes[level]]))
        found.append((total, row))
    return sorted(found, reverse=True)


def test_wide_beams_find_what_trying_all_finds(model: nn.Module, ids: SemanticIds) -> None:
    trie = trie_of(ids)
    allowed_BN = torch.rand(len(PROMPTS), len(ids.items), generator=torch.Generator().manual_seed(0)) > 0.4
    nodes_BW, scores_BW = search(model, PROMPTS, 100, LEVELS, below(trie, allowed_BN))
    for number, prompt in enumerate(PROMPTS):
        wanted = likelihoods(model, ids, prompt, allowed_BN[number].nonzero()[:, 0].tolist())
        kept = nodes_BW[number] >= 0
        assert trie.items_N[nodes_BW[number][kept]].tolist() == [row for _, row in wanted]
        np.testing.assert_allclose(scores_BW[number][kept], [score for score, _ in wanted], atol=1e-5)
        assert scores_BW[number][~kept].isneginf().all()


def test_narrow_beams_are_beams_of_the_wide_ones(model: nn.Module, ids: SemanticIds) -> None:
    trie, all_BN = trie_of(ids), torch.ones(len(PROMPTS), len(ids.items), dtype=torch.bool)
    together, _ = search(model, PROMPTS, 4, LEVELS, below(trie, all_BN))
    assert (together >= 0).all()
    assert all(len(set(row)) == 4 for row in together.tolist())
    for number, prompt in enumerate(PROMPTS):
        alone, _ = search(model, [prompt], 4, LEVELS, below(trie, all_BN[:1]))
        assert alone[0].tolist() == together[number].tolist(), "prompts do not see each other"


@pytest.mark.parametrize("tokens", [1, 40, 100])
def test_beams_that_do_not_fit_go_one_part_after_another(
    model: nn.Module, ids: SemanticIds, tokens: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    trie, all_BN = trie_of(ids), torch.ones(len(PROMPTS), len(ids.items), dtype=torch.bool)
    whole = search(model, PROMPTS, 7, LEVELS, below(trie, all_BN))
    monkeypatch.setattr(beams, "TOKENS_AT_ONCE", tokens)
    read: list[int] = []

    def seen(module: nn.Module, given: Any) -> None:
        read.append(len(given[0]) if model.has_cache else given[0].numel())

    hook = model.register_forward_pre_hook(seen)
    try:
        nodes_BW, scores_BW = search(model, PROMPTS, 7, LEVELS, below(trie, all_BN))
        fits = max(1, tokens // (6 + LEVELS))
        assert max(read[1:]) <= (fits if model.has_cache else fits * (6 + LEVELS))
        assert nodes_BW.tolist() == whole[0].tolist()
        torch.testing.assert_close(scores_BW, whole[1], rtol=0, atol=1e-6)
        del read[:]
        search(model, PROMPTS, 7, LEVELS, below(trie, all_BN), in_parts=False)
        assert len(read) == LEVELS, "workers that hold a model between them call it as often"
    finally:
        hook.remove()


def test_one_item_that_is_allowed_is_found_by_one_beam(model: nn.Module, ids: SemanticIds) -> None:
    trie = trie_of(ids)
    for row in range(0, len(ids.items), 9):
        allowed_BN = torch.zeros(1, len(ids.items), dtype=torch.bool)
        allowed_BN[0, row] = True
        nodes, scores = search(model, PROMPTS[:1], 1, LEVELS, below(trie, allowed_BN))
        assert trie.items_N[nodes[0, 0]] == row
        ((likelihood, _),) = likelihoods(model, ids, PROMPTS[0], [row])
        assert scores[0, 0] == pytest.approx(likelihood, abs=1e-5)


def test_what_is_not_allowed_gives_its_probability_to_nobody() -> None:
    """One code is likely for an item that was seen; what else begins with it is no better for that."""
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    few = SemanticIds("few", 2, ("hit", "beside it", "good", "bad"), codes)
    probabilities = {(): [0.9, 0.1, 0, 0], (0,): [0, 0, 0.999, 0.001], (1,): [0, 0, 0.9, 0.1]}
    allowed_BN = torch.tensor([[False, True, True, True]])
    tokens_LK = torch.arange(4).view(2, 2)
    nodes_BW, scores_BW = search(Told(probabilities), [[3]], 3, 2, below(trie_of(few), allowed_BN, tokens_LK))
    assert trie_of(few).items_N[nodes_BW[0]].tolist() == [2, 3, 1]
    assert scores_BW[0].exp().tolist() == pytest.approx([0.09, 0.01, 0.0009], rel=1e-5)


class Told(nn.Module):
    """Of what follows the prompt's one token, the probabilities of each token."""

    has_cache = False

    def __init__(self, probabilities: dict[tuple[int, ...], list[float]]) -> None:
        super().__init__()
        self.unused = nn.Parameter(torch.zeros(1))
        self._probabilities = probabilities

    def forward(self, ids_BT: Tensor, layout: Layout) -> Tensor:
        rows = [self._probabilities[tuple(row[1:])] for row in ids_BT.tolist()]
        return torch.tensor(rows)[:, None].expand(-1, ids_BT.shape[1], -1)

    def head(self) -> Any:
        return SimpleNamespace(logits=torch.log)


def test_what_is_not_a_number_is_no_item(ids: SemanticIds) -> None:
    codes = np.array([[0, 0], [0, 1], [1, 0], [1, 1]], np.int32)
    few = SemanticIds("few", 2, ("broken", "lost", "good", "impossible"), codes)
    probabilities = {(): [0.4, 0.6, 0, 0], (0,): [torch.nan] * 4, (1,): [0, 0, 1.0, 0]}
    all_BN, tokens_LK = torch.ones(1, 4, dtype=torch.bool), torch.arange(4).view(2, 2)
    nodes_BW, scores_BW = search(Told(probabilities), [[3]], 4, 2, below(trie_of(few), all_BN, tokens_LK))
    assert nodes_BW[0].tolist() == [2, -1, -1, -1]
    assert scores_BW[0].exp().tolist() == pytest.approx([0.6, 0, 0, 0])


def test_nothing_allowed_gives_nothing(model: nn.Module, ids: SemanticIds) -> None:
    none_BN = torch.zeros(2, len(ids.items), dtype=torch.bool)
    none_BN[1, 3] = True
    nodes_BW, _ = search(model, PROMPTS[:2], 2, LEVELS, below(trie_of(ids), none_BN))
    assert nodes_BW[0].tolist() == [-1, -1]
    assert (nodes_BW[1] >= 0).sum() == 1


def test_a_trie_holds_each_item_once(ids: SemanticIds) -> None:
    trie = trie_of(ids)
    nodes = torch.zeros(1, dtype=torch.int64)
    paths = [()]
    for depth in range(LEVELS):
        owner, nodes, codes = trie.children(depth, nodes)
        paths = [(*paths[at], code) for at, code in zip(owner.tolist(), codes.tolist(), strict=True)]
    assert nodes.tolist() == list(range(len(ids.items)))
    assert [tuple(ids.codes_NL[row]) for row in trie.items_N.tolist()] == paths
    part = trie_of(ids, np.array([4, 2]))
    assert sorted(part.items_N.tolist()) == [2, 4]
