"""How are answers drawn where there is no vLLM? By the port itself: of the same distribution, more slowly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from ptw.data.pack import IGNORED
from ptw.nn.decode import generate
from ptw.nn.head import Head
from ptw.nn.layout import Layout
from ptw.nn.nucleus import drawable, log_probs_among
from ptw.ports.load import load
from ptw.rl.engine import Asked, Drawn, Sampling

AT_ONCE = 64  # answers


class PortEngine:
    """The model of a folder, opened as any other."""

    def __init__(self, folder: Path, root: Path, port: str | None, sampling: Sampling, dtype: str) -> None:
        self._root, self._port, self._sampling = root, port, sampling
        self._dtype = getattr(torch, dtype)
        self.load(folder)

    def load(self, folder: Path) -> None:
        """Other weights of the same model."""
        device = "cuda" if torch.cuda.is_available() else "cpu"
        loaded = load(folder, self._root, port=self._port, dtype=self._dtype, device=device)
        self._model = loaded.module.eval()

    def generate(self, asked: Sequence[Asked]) -> list[Drawn]:
        """An answer to each, drawn by its own seed."""
        found: list[Drawn] = []
        for begin in range(0, len(asked), AT_ONCE):
            found += self._drawn(asked[begin : begin + AT_ONCE])
        return found

    @torch.no_grad()
    def _drawn(self, asked: Sequence[Asked]) -> list[Drawn]:
        sampling = self._sampling
        answers = generate(
            self._model,
            [one.ids for one in asked],
            sampling.max_new_tokens,
            stop_ids=sampling.stop_ids,
            temperature=sampling.temperature,
            seed=[one.seed for one in asked],
            top_p=sampling.top_p,
            top_k=sampling.top_k,
        )
        texts = [[*one.ids, *answer] for one, answer in zip(asked, answers, strict=True)]
        width = max(map(len, texts))
        ids_BT = torch.tensor([[*text, *[0] * (width - len(text))] for text in texts])
        targets_BT = torch.full_like(ids_BT, IGNORED)
        for row_T, one, answer in zip(targets_BT, asked, answers, strict=True):
            row_T[len(one.ids) - 1 : len(one.ids) - 1 + len(answer)] = torch.tensor(answer)
        device = next(self._model.parameters()).device
        layout = Layout.of_documents([[len(text)] for text in texts], width=width, device=device)
        hidden_BTD, targets_BT = self._model(ids_BT.to(device), layout), targets_BT.to(device)
        hidden_MD, targets_M = hidden_BTD[targets_BT != IGNORED], targets_BT[targets_BT != IGNORED]
        heat = sampling.temperature
        head: Head = self._model.head()  # type: ignore[operator]
        among = drawable(head, hidden_MD, targets_M, heat, sampling.top_p, sampling.top_k)
        log_probs_M = log_probs_among(head, hidden_MD, targets_M, heat, among).cpu()
        parts = log_probs_M.split([len(answer) for answer in answers])
        return [
            Drawn(tuple(answer), tuple(part.tolist())) for answer, part in zip(answers, parts, strict=True)
        ]
