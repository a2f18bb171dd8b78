"""How wide must beams be, and what do filters cost them? Held to a search that leaves no item out.

A decoder over semantic IDs of amazon-beauty, trained as in benchmarks/beauty.py for a few epochs. Of test
users whose next item has an attribute that at most 2,000 items share: the ten likeliest items by beams, and
by 2,000 beams, which under the filter are all items that it leaves. `python -m benchmarks.filtered_beams`
"""

import json
import random
from collections.abc import Iterator, Sequence
from math import log2
from pathlib import Path
from statistics import mean

import numpy as np
import torch

from benchmarks.beauty import OVER_CODES, TOML, write
from benchmarks.report import Figure, publish, real_data, two_threads
from benchmarks.workspaces import ptw, workspace
from ptw.evals.cases import Case, Catalogue, cases, catalogue_of
from ptw.evals.generated import Generator
from ptw.tokens.semantic import SemanticIds
from ptw.tokens.tokenizer import Tokenizer
from ptw.train.moment import open_at
from ptw.workspace.manifest import read

EPOCHS, USERS, TOP, SEED = 4, 200, 10, 0
WIDTHS, ALL = (10, 20, 50), 2000


def main() -> None:
    source = real_data("amazon-beauty")
    two_threads()
    with workspace(TOML + OVER_CODES) as root:
        write(source, root / "data")
        ptw(root, "vocab", "build", "products")
        ptw(root, "train", "next-codes", "--set", f"epochs={EPOCHS}")
        found = list(measured(root))
    about = (
        f"{USERS} test users of amazon-beauty, a llama of 4 layers over 3 x 256 semantic IDs after {EPOCHS} "
        f"epochs; filter: an attribute of the next item that at most {ALL:,} items have, so that {ALL:,} "
        "beams are all items; what was seen is left out"
    )
    publish("filtered_beams", about, found)


def measured(root: Path) -> Iterator[Figure]:
    opened = open_at(read(root), "next-codes-001")
    module, tokenizer = opened.loaded.module.eval(), opened.tokenizer
    assert tokenizer is not None, "a run has a tokenizer"
    catalogue = catalogue_of(tokenizer)
    masks = attributes(root / "data" / "items.jsonl", catalogue)
    users = drawn(root, tokenizer, catalogue, masks)
    for filtered, what in ((False, "no filter"), (True, "filter")):
        lists = {}
        for width in (*WIDTHS, ALL):
            generator = Generator(module, tokenizer, width)
            lists[width] = [
                tops(generator, case, mask if filtered else None, catalogue) for case, mask in users
            ]
        for width, found in lists.items():
            same = mean(len({*a} & {*b}) / len(b) for a, b in zip(found, lists[ALL], strict=True))
            gains = [gain(items, case.target) for items, (case, _) in zip(found, users, strict=True)]
            yield Figure(f"{what}, {width} beams: of the first ten of {ALL:,}", same)
            yield Figure(f"{what}, {width} beams: recall@10", mean(gain > 0 for gain in gains))
            yield Figure(f"{what}, {width} beams: NDCG@10", mean(gains))


def attributes(file: Path, catalogue: Catalogue) -> dict[str, np.ndarray]:
    """(N,) which items have it, of each attribute that is rare enough to be searched wholly."""
    masks: dict[str, np.ndarray] = {}
    for item in map(json.loads, file.read_text(encoding="utf-8").splitlines()):
        number = catalogue.get(item["id"])
        for name in item["attributes"]:
            masks.setdefault(name, np.zeros(len(catalogue.names), bool))[number] = True
    return {name: mask for name, mask in masks.items() if TOP <= mask.sum() <= ALL}


def drawn(
    root: Path, tokenizer: Tokenizer, catalogue: Catalogue, masks: dict[str, np.ndarray]
) -> list[tuple[Case, np.ndarray]]:
    """Test users, each with the items of one attribute of the next item."""
    entry = read(root).datasets["users"]
    draw = random.Random(SEED)
    found: list[tuple[Case, np.ndarray]] = []
    every = list(cases(root, entry, tokenizer, catalogue, "test", 512))
    for case in draw.sample(every, len(every)):
        own = [mask for mask in masks.values() if mask[case.target]]
        if own and len(found) < USERS:
            found.append((case, draw.choice(own)))
    return found


def tops(generator: Generator, case: Case, mask: np.ndarray | None, catalogue: Catalogue) -> Sequence[int]:
    """The numbers of the first items that beams find."""
    number_of = numbers(generator.ids, catalogue)
    allowed_N = np.ones(len(number_of), bool) if mask is None else mask[number_of]
    allowed_N &= ~np.isin(number_of, list(case.seen))
    rows_BW, _ = generator.likeliest([case.input.ids.tolist()], torch.from_numpy(allowed_N)[None])
    rows_W = rows_BW[0, :TOP]
    return [int(number) for number in number_of[rows_W[rows_W >= 0]]]


def numbers(ids: SemanticIds, catalogue: Catalogue) -> np.ndarray:
    return np.array([catalogue.get(name) for name in ids.items])


def gain(items: Sequence[int], target: int) -> float:
    return 1 / log2(items.index(target) + 2) if target in items else 0.0


if __name__ == "__main__":
    main()
