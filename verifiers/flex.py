"""FlexAttention, which training takes on a GPU, gives what each document gives alone; here uncompiled."""

import warnings
from typing import Any

import torch
from torch import Tensor

LEVELS = ("acceptance",)  # slow: a CPU runs it uncompiled
LIMITS = {
    "relative": 1e-10,
    "leak": 0.0,  # tokens whose logits change by one bit when another document does
}
PACKED, CHANGED = "packed.", "changed."


def probe(subject: Any, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """packed.SIDE: (T, V); changed.SIDE: the same with another first document; alone: the oracle."""
    if "gradient.ids" not in inputs:
        return {}
    model, ids, lengths = subject.exact(), inputs["gradient.ids"], inputs["gradient.lengths"]
    if subject.is_reference:
        return {"alone": torch.cat([model.logits(document) for document in ids.split(lengths.tolist())])}
    places = {"lengths": lengths, "row": 2 * torch.arange(len(lengths)) // len(lengths)}
    changed = ids.roll(-1)
    changed[lengths[0] :] = ids[lengths[0] :]
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is not compiled
        for name, tokens in ((PACKED, ids), (CHANGED, changed)):
            for way, logits in model.packed(tokens, places, ("flex",)).items():
                found[name + way] = logits
    return found


def measure(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> dict[str, float]:
    if "alone" not in theirs:
        return {}
    alone_TV, first = theirs["alone"], int(theirs["given.gradient.lengths"][0])
    errors, leaks = [], []
    for name in sorted(name for name in ours if name.startswith(PACKED)):
        changed_TV = ours[CHANGED + name.removeprefix(PACKED)]
        errors.append(((ours[name] - alone_TV).norm(dim=-1) / alone_TV.norm(dim=-1)).max())
        leaks.append((ours[name] != changed_TV).any(dim=-1)[first:].sum().double())
    return {"relative": torch.stack(errors).max().item(), "leak": torch.stack(leaks).max().item()}
