"""How does a model rank the items of a catalogue: does it score each of them, or generate the best?"""

from collections.abc import Iterable

import torch
from torch import nn

from ptw.evals.cases import Case, Catalogue
from ptw.evals.generated import generated
from ptw.evals.later import Later
from ptw.evals.ranking import ROWS_AT_ONCE, Ranked, scored
from ptw.tokens.tokenizer import Tokenizer


def model_ranked(
    module: nn.Module,
    sequences: Iterable[Case],
    catalogue: Catalogue,
    tokenizer: Tokenizer,
    window: int,
    device: torch.device,
    rank: int = 0,
    world: int = 1,
    top: int = 0,
    beams: int | None = None,
    later: Later | None = None,
    at_once: int = ROWS_AT_ONCE,
) -> list[Ranked]:
    """What came of each sequence of this worker's share, with its first `top` items.

    Where items are single tokens all are scored, `at_once` rows in a pass, else the likeliest are found by so
    many beams.
    """
    training = module.training
    module.eval()
    if tokenizer.vocabularies:
        found = generated(module, list(sequences), catalogue, tokenizer, top, beams, later, rank, world)
    else:
        found = scored(module, sequences, catalogue, tokenizer, window, device, rank, world, top, at_once)
    module.train(training)
    return found
