"""How far is an engine apart from the port? `vllm_apart.py FIRST OTHER` says it of two folders.

Of the first with its weights, and, once the other's are loaded, of the other and of the first.
"""

import sys
from pathlib import Path

import torch

from ptw.nn.layout import Layout
from ptw.ports.load import load
from ptw.rl.engine import Asked, Drawn, Sampling, Vllm

SAMPLING = Sampling(1.0, 1.0, 0, 12, (2,))


def apart(folder: Path, asked: list[Asked], drawn: list[Drawn]) -> float:
    """The largest difference of a log-probability from the port's."""
    model, worst = load(folder, None, dtype=torch.float32).module, 0.0
    for one, answer in zip(asked, drawn, strict=True):
        ids_BT = torch.tensor([[*one.ids, *answer.ids]])
        with torch.no_grad():
            hidden_BTD = model(ids_BT, Layout.of_documents([[ids_BT.shape[1]]]))
            log_probs_TV = model.head().logits(hidden_BTD)[0, len(one.ids) - 1 : -1].log_softmax(-1)
        own = log_probs_TV.gather(-1, torch.tensor(answer.ids)[:, None]).squeeze(-1)
        worst = max(worst, (own - torch.tensor(answer.log_probs)).abs().max().item())
    return worst


def main(first: Path, other: Path) -> None:
    engine = Vllm(first, 64, SAMPLING, "float32", 0.3)
    asked = [Asked((1, 5, 9, 20 + n), n) for n in range(8)]
    before = apart(first, asked, engine.generate(asked))
    engine.load(other)
    drawn = engine.generate(asked)
    sys.stdout.write(f"{before} {apart(other, asked, drawn)} {apart(first, asked, drawn)}\n")


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
