"""How does a vector become codes, whichever quantizer learnt them?"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ptw.errors import PtwError
from ptw.vocab.kmeans import nearest

FILE = "codec.safetensors"


@dataclass(frozen=True)
class Codec:
    """Codebooks of L levels; the code of a level is the row nearest to what the levels before it leave over.

    layers: of a network that vectors go through first, each (weight, bias), with ReLU between them.
    """

    codebooks_LKD: Tensor
    layers: tuple[tuple[Tensor, Tensor], ...] = ()

    @torch.no_grad()
    def encoded(self, vectors_ND: Tensor) -> Tensor:
        """(N, d) what is quantised."""
        for number, (weight, bias) in enumerate(self.layers):
            vectors_ND = torch.nn.functional.linear(vectors_ND.relu() if number else vectors_ND, weight, bias)
        return vectors_ND

    def codes(self, encoded_ND: Tensor) -> tuple[Tensor, Tensor]:
        """(N, L) the nearest codes, and (N, d) what they leave over."""
        codes, left_ND = [], encoded_ND
        for codebook_KD in self.codebooks_LKD:
            codes.append(nearest(left_ND, codebook_KD)[1])
            left_ND = left_ND - codebook_KD[codes[-1]]
        return torch.stack(codes, -1), left_ND

    def left_over(self, encoded_ND: Tensor, codes_NL: Tensor) -> Tensor:
        """(N, d) of the vectors, without what these codes stand for."""
        for level in range(codes_NL.shape[-1]):
            encoded_ND = encoded_ND - self.codebooks_LKD[level][codes_NL[:, level]]
        return encoded_ND

    def save(self, folder: Path) -> None:
        tensors = {"codebooks": self.codebooks_LKD.contiguous()}
        for number, (weight, bias) in enumerate(self.layers):
            tensors |= {
                f"layer.{number}.weight": weight.contiguous(),
                f"layer.{number}.bias": bias.contiguous(),
            }
        save_file(tensors, folder / FILE)


def read_codec(folder: Path) -> Codec:
    try:
        tensors = load_file(folder / FILE)
        numbers = range(sum(name.endswith(".weight") for name in tensors))
        layers = [(tensors[f"layer.{n}.weight"], tensors[f"layer.{n}.bias"]) for n in numbers]
        return Codec(tensors["codebooks"], tuple(layers))
    except (OSError, SafetensorError, KeyError) as error:
        raise PtwError(f"{folder / FILE}: can't be read ({error!r}); build the vocabulary again") from error
