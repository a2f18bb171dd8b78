"""What do beams under the trie of a catalogue cost, beside beams that may say any code?"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.report import Figure, medians, publish, two_threads
from ptw.nn.beams import search
from ptw.ports.load import create
from ptw.tokens.semantic import SemanticIds
from ptw.tokens.trie import Trie, trie_of

LEVELS, SIZE, FIRST = 3, 256, 3
PROMPTS, LENGTH, WIDTH = 16, 60, 20
SEEN = 20  # items that each prompt may not get


def main() -> None:
    two_threads()
    figures = []
    for items in (12_000, 100_000, 1_000_000):
        ids = catalogue(items)
        began = time.perf_counter()
        trie = trie_of(ids)
        seconds = time.perf_counter() - began
        want = 2.0 if items == 100_000 else None
        figures.append(Figure(f"{items:,} items: trie built", seconds, "s", want=want))
        figures.append(Figure(f"{items:,} items: trie in memory", trie.nbytes / 2**20, "MiB"))
        took = times(trie, items)
        want = 1.03 if items == 100_000 else None
        figures.append(
            Figure(f"{items:,} items: under the trie / free", took["under"] / took["free"], want=want)
        )
        figures.append(
            Figure(f"{items:,} items: under the trie, with filters / free", took["filtered"] / took["free"])
        )
    about = (
        f"{WIDTH} beams of {PROMPTS} prompts of {LENGTH} tokens, {LEVELS} x {SIZE} codes, a llama of 4 "
        "layers of 128; filters: what each prompt has seen is left out"
    )
    publish("trie_beams", about, figures)


def catalogue(items: int) -> SemanticIds:
    numbers = np.random.default_rng(0).choice(SIZE**LEVELS, items, replace=False)
    codes = np.stack([numbers // SIZE**2, numbers // SIZE % SIZE, numbers % SIZE], -1).astype(np.int32)
    return SemanticIds("items", SIZE, tuple(map(str, range(items))), codes)


def times(trie: Trie, items: int) -> dict[str, float]:
    """Seconds of a search: free, under the trie, and with filters; in turns."""
    model = decoder()
    generator = torch.Generator().manual_seed(0)
    prompts = torch.randint(FIRST, FIRST + LEVELS * SIZE, (PROMPTS, LENGTH), generator=generator).tolist()
    tokens_LK = torch.arange(FIRST, FIRST + LEVELS * SIZE).view(LEVELS, SIZE)
    allowed_BN = torch.ones(PROMPTS, items, dtype=torch.bool)
    allowed_BN.scatter_(1, torch.randint(items, (PROMPTS, SEEN), generator=generator), False)

    def free(depth: int, prompt_M: Tensor, node_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        owner = torch.arange(len(node_M)).repeat_interleave(SIZE)
        code = torch.arange(SIZE).repeat(len(node_M))
        return owner, node_M[owner] * SIZE + code, tokens_LK[depth][code]

    def under(depth: int, prompt_M: Tensor, node_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        owner, child, code = trie.children(depth, node_M)
        return owner, child, tokens_LK[depth][code]

    def filtered() -> None:
        opened = trie.allowing(allowed_BN)

        def children(depth: int, prompt_M: Tensor, node_M: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            owner, child, code = trie.children(depth, node_M)
            kept = opened[depth + 1][prompt_M[owner], child]
            return owner[kept], child[kept], tokens_LK[depth][code[kept]]

        search(model, prompts, WIDTH, LEVELS, children)

    ways: dict[str, Callable[[], object]] = {
        "free": lambda: search(model, prompts, WIDTH, LEVELS, free),
        "under": lambda: search(model, prompts, WIDTH, LEVELS, under),
        "filtered": filtered,
    }
    return medians(ways, rounds=15)


def decoder() -> nn.Module:
    config = {
        "model_type": "llama",
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": FIRST + LEVELS * SIZE,
    }
    return create(config, None, seed=0).module.eval()


if __name__ == "__main__":
    main()
