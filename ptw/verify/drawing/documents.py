"""Which inputs show a mistake? Documents of uneven lengths around every bound that the configuration has."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

LONG = 257
SHORT = 24  # no document of several is shorter where there is no bound
STEPS = 5  # tokens decoded one by one after the prefill
NEW_TOKENS = 6
NUDGED_LENGTH = 9
FAR = (5_000, 60_000)
NO_LOSS = -100
DRAWS = 200
LARGEST_VOCABULARY = 400
Tensors = dict[str, Tensor]
Good = Callable[[list[int]], bool]


def inputs(config: Any, draw: random.Random, *, thorough: bool, good: Good = lambda tokens: True) -> Tensors:
    """What port and reference are given. D documents of `lengths` stand one after the other in `ids`.

    row: the row of a packed batch that a document lies in. changed: `ids` with the tokens of document
    `changed_document` replaced. decode_document, decode_prefill: documents that are decoded side by side, and
    how many of their tokens come first; decode_steps follow one by one. new_tokens: to be generated greedily
    from each prefill. nudged: the document on which every weight's effect is looked at; empty for none.
    far: a position, beyond every document that is given, at which this document may start.
    A document that is not `good` is drawn again.
    """
    lengths = _lengths(config, draw, thorough=thorough)
    vocabulary = int(config.vocab_size)

    def drawn(length: int, place: int) -> list[int]:
        return _good(lambda: _document(length, place, vocabulary, draw), good)

    documents = [drawn(length, place) for place, length in enumerate(lengths)]
    rows = _rows(lengths)
    # one that another document follows in its row: nobody could see the last one anyway
    changed = draw.choice([place for place in range(len(rows) - 1) if rows[place] == rows[place + 1]])
    other = [*documents]
    # none of its tokens stays what it was
    other[changed] = _good(lambda: _others(documents[changed], vocabulary, draw), good)
    decoded = [place for place, length in enumerate(lengths) if length > 1][-3:]
    nudged = drawn(NUDGED_LENGTH, 0) if thorough else []
    return {
        "ids": torch.tensor([token for document in documents for token in document]),
        "changed": torch.tensor([token for document in other for token in document]),
        "lengths": torch.tensor(lengths),
        "row": torch.tensor(rows),
        "changed_document": torch.tensor([changed]),
        "decode_document": torch.tensor(decoded),
        "decode_prefill": torch.tensor(
            [lengths[place] - min(STEPS, lengths[place] - 1) for place in decoded]
        ),
        "decode_steps": torch.tensor([min(STEPS, min(lengths[place] for place in decoded) - 1)]),
        "new_tokens": torch.tensor([NEW_TOKENS if thorough else 2]),
        "nudged": torch.tensor(nudged, dtype=torch.int64),
        "far": torch.tensor([random.Random(repr(nudged)).randrange(*FAR)]),
    }


def gradients(config: Any, draw: random.Random) -> Tensors:
    """gradient.ids, .lengths, .targets: the next token of the same document, NO_LOSS where there is no loss.

    Longer than the window. Together they hold every token of a small vocabulary, also the padding token:
    the reference may not train its embedding, and trains that of every other.
    """
    vocabulary = int(config.vocab_size)
    longest = max([SHORT, *(bound for bound in bounds(config) if bound < LONG // 3)])
    lengths = [longest + draw.randrange(9, 20), draw.randrange(2, 6), 1, draw.randrange(20, 40)]
    rest = min(vocabulary, LARGEST_VOCABULARY) - sum(lengths)
    lengths += [rest + 1] if rest > 0 else []
    draw.shuffle(lengths)
    tokens = draw.sample(range(vocabulary), vocabulary) * (1 + sum(lengths) // vocabulary)
    documents = [[tokens.pop() for _ in range(length)] for length in lengths]
    targets = [[*document[1:], NO_LOSS] for document in documents]
    # as where a prompt comes before an answer, and a word within it is left out
    first = max(range(len(lengths)), key=lambda place: lengths[place])
    documents[first][6] = getattr(config, "pad_token_id", None) or 0
    targets[first] = [*documents[first][1:], NO_LOSS]
    targets[first][:4] = [NO_LOSS] * 4
    targets[first][draw.randrange(4, lengths[first])] = NO_LOSS
    return {
        "gradient.ids": torch.tensor([token for document in documents for token in document]),
        "gradient.lengths": torch.tensor(lengths),
        "gradient.targets": torch.tensor([token for row in targets for token in row]),
    }


def bounds(config: Any) -> list[int]:
    """Lengths at which the configuration changes what a token sees: its window, its original context."""
    found = {value for value in (getattr(config, "sliding_window", None),) if value}
    rope = getattr(config, "rope_parameters", None) or {}
    for parameters in [rope, *(value for value in rope.values() if isinstance(value, dict))]:
        kind = parameters.get("rope_type")
        if kind == "dynamic":
            found.add(config.max_position_embeddings)
        if original := parameters.get("original_max_position_embeddings"):
            found.add(original)
    return sorted(bound for bound in found if bound < LONG)


def _lengths(config: Any, draw: random.Random, *, thorough: bool) -> list[int]:
    lengths = [1, 2, 7] if thorough else [2]
    for bound in bounds(config):
        lengths += [bound - 1, bound + 3]
        lengths += [bound, bound + 1, 3 * bound + 5] if thorough else []
    lengths = [length for length in lengths if length > 0]
    lengths += [37, LONG] if thorough else [draw.randrange(64, 180)]
    draw.shuffle(lengths)
    return lengths


def _good(drawn: Callable[[], list[int]], good: Good) -> list[int]:
    tokens = drawn()
    for _ in range(DRAWS):
        if good(tokens):
            break
        tokens = drawn()
    return tokens


def _others(tokens: list[int], vocabulary: int, draw: random.Random) -> list[int]:
    return [(token + draw.randrange(1, vocabulary)) % vocabulary for token in tokens]


def _document(length: int, place: int, vocabulary: int, draw: random.Random) -> list[int]:
    """Tokens at random; every fourth document repeats one, every fourth a few; the last id is in all."""
    if place % 4 == 1:
        return [draw.randrange(vocabulary)] * length
    choices = range(vocabulary) if place % 4 != 2 else draw.sample(range(vocabulary), 3)
    tokens = [draw.choice(choices) for _ in range(length)]
    tokens[draw.randrange(length)] = vocabulary - 1
    return tokens


def _rows(lengths: list[int]) -> list[int]:
    """Two rows of unequal width, of which the shorter is padded; two documents share one."""
    first = max(2, 2 * len(lengths) // 3)
    return [0 if place < first else 1 for place in range(len(lengths))]
