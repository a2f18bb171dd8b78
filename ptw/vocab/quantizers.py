"""Which codebooks say most of a catalogue's vectors? By k-means, or behind a network that is learnt."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.vocab import kmeans
from ptw.vocab.codec import Codec

Say = Callable[[str], None]
MOST = 2**22  # probabilities held at a time


@dataclass(frozen=True)
class Shape:
    levels: int
    codebook_size: int
    seed: int
    steps: int = 3000  # of a network that is learnt


def residual_kmeans(vectors_ND: Tensor, shape: Shape, say: Say) -> Codec:
    """Each level's centres are those of what the levels before it leave over."""
    generator = torch.Generator().manual_seed(shape.seed)
    books, left_ND = [], vectors_ND
    for level in range(shape.levels):
        book_KD = kmeans.fit(left_ND, shape.codebook_size, generator)
        left_ND = left_ND - book_KD[kmeans.nearest(left_ND, book_KD)[1]]
        books.append(book_KD)
        say(f"level {level}: {_left(left_ND, vectors_ND):.1%} of the vectors is left over")
    return Codec(torch.stack(books))


def warm(codec: Codec, vectors_ND: Tensor, iterations: int) -> Codec:
    """The same codec after so many steps of k-means more on each level."""
    books, left_ND = [], codec.encoded(vectors_ND)
    for book_KD in codec.codebooks_LKD:
        book_KD = kmeans.refine(left_ND, book_KD, iterations)
        left_ND = left_ND - book_KD[kmeans.nearest(left_ND, book_KD)[1]]
        books.append(book_KD)
    return Codec(torch.stack(books), codec.layers)


def rq_vae(vectors_ND: Tensor, shape: Shape, say: Say) -> Codec:
    """Lee et al., 2022, as TIGER has it. Codebooks begin as k-means' of the first latents; a code that an
    epoch does not use goes to a latent of its last batch, or most of them would never be used.
    """
    network = _Network(vectors_ND.shape[-1], shape)
    first_ND = network.encoder(vectors_ND).detach()
    books = nn.Parameter(residual_kmeans(first_ND, shape, lambda text: None).codebooks_LKD.clone())
    used_LK = torch.zeros(books.shape[:2], dtype=torch.bool)  # few vectors have fewer codes

    def quantised(latent_ND: Tensor) -> tuple[Tensor, Tensor]:
        left_ND, sum_ND, loss = latent_ND, torch.zeros_like(latent_ND), latent_ND.new_zeros(())
        for level, book_KD in enumerate(books):
            codes_N = kmeans.nearest(left_ND.detach(), book_KD.detach())[1]
            used_LK[level, codes_N] = True
            chosen_ND = book_KD[codes_N]
            loss = loss + (left_ND.detach() - chosen_ND).square().sum(-1).mean()
            loss = loss + 0.25 * (left_ND - chosen_ND.detach()).square().sum(-1).mean()
            left_ND, sum_ND = left_ND - chosen_ND.detach(), sum_ND + chosen_ND
        return latent_ND + (sum_ND - latent_ND).detach(), loss

    @torch.no_grad()
    def revive(latent_ND: Tensor) -> None:
        left_ND = latent_ND
        for level in range(shape.levels):
            unused = (~used_LK[level]).nonzero()[:, 0][: len(left_ND)]
            books[level, unused] = left_ND[torch.randperm(len(left_ND), generator=network.generator)][
                : len(unused)
            ]
            left_ND = left_ND - books[level][kmeans.nearest(left_ND, books[level])[1]]
        used_LK.zero_()

    network.learn(vectors_ND, quantised, [books], say, revive)
    return Codec(books.detach().clone(), network.layers())


def residual_lfq(vectors_ND: Tensor, shape: Shape, say: Say) -> Codec:
    """Lookup-free quantisation (Yu et al., 2023), level by level: a code is the signs of a latent.

    Its codebook is every choice of signs, times a length of the level's own, so codes are read as those of
    the others. PtwError unless codebook_size is a power of two.
    """
    bits = shape.codebook_size.bit_length() - 1
    if shape.codebook_size != 2**bits:
        raise PtwError(
            f"codebook_size = {shape.codebook_size}: residual-lfq needs a power of two; set {2**bits} or "
            f"{2 ** (bits + 1)}"
        )
    network = _Network(vectors_ND.shape[-1], shape, latent=bits)
    signs_KD = (torch.arange(2**bits)[:, None] >> torch.arange(bits)) % 2 * 2.0 - 1
    network.centre(vectors_ND)
    lengths_L = nn.Parameter(0.5 ** torch.arange(shape.levels).float())

    def quantised(latent_ND: Tensor) -> tuple[Tensor, Tensor]:
        left_ND, sum_ND, loss = latent_ND, torch.zeros_like(latent_ND), latent_ND.new_zeros(())
        for length in lengths_L:
            chosen_ND = torch.where(left_ND >= 0, length, -length)
            loss = loss + (left_ND - chosen_ND).square().sum(-1).mean()
            loss = loss - 0.1 * _evenness(left_ND / length, signs_KD)
            left_ND, sum_ND = left_ND - chosen_ND, sum_ND + chosen_ND
        return latent_ND + (sum_ND - latent_ND).detach(), loss

    network.learn(vectors_ND, quantised, [lengths_L], say)
    books_LKD = lengths_L.detach().abs()[:, None, None] * signs_KD
    return Codec(books_LKD, network.layers())


QUANTIZERS: dict[str, Callable[[Tensor, Shape, Say], Codec]] = {
    "residual-kmeans": residual_kmeans,
    "rq-vae": rq_vae,
    "residual-lfq": residual_lfq,
}


class _Network:
    """An encoder and a decoder that is thrown away, learnt by giving vectors back."""

    def __init__(self, width: int, shape: Shape, latent: int = 32) -> None:
        self.generator, self._steps = torch.Generator().manual_seed(shape.seed), shape.steps
        sizes = [width, 4 * latent, 2 * latent, latent]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(shape.seed)
            self.encoder, self.decoder = _layers(sizes), _layers(sizes[::-1])

    @torch.no_grad()
    def centre(self, vectors_ND: Tensor) -> None:
        """Each number of the latent begins with mean 0 and deviation 1: its sign tells half from half."""
        last = self.encoder[-1]
        assert isinstance(last, nn.Linear)
        latent_ND = self.encoder(vectors_ND)
        mean_D, spread_D = latent_ND.mean(0), latent_ND.std(0).clamp(min=1e-6)
        last.weight.div_(spread_D[:, None])
        last.bias.sub_(mean_D).div_(spread_D)

    def learn(
        self,
        vectors_ND: Tensor,
        quantised: Callable[[Tensor], tuple[Tensor, Tensor]],
        beside: list[nn.Parameter],
        say: Say,
        after_epoch: Callable[[Tensor], None] = lambda latent_ND: None,
        rows: int = 1024,
    ) -> None:
        parameters = [*self.encoder.parameters(), *self.decoder.parameters(), *beside]
        optimizer = torch.optim.AdamW(parameters, 1e-3, weight_decay=0.0)
        rows = min(rows, len(vectors_ND))
        epoch = max(1, len(vectors_ND) // rows)
        for step in range(self._steps):
            chosen = torch.randint(len(vectors_ND), (rows,), generator=self.generator)
            latent_ND = self.encoder(vectors_ND[chosen])
            back_ND, loss = quantised(latent_ND)
            off = (self.decoder(back_ND) - vectors_ND[chosen]).square().sum(-1).mean()
            optimizer.zero_grad()
            (off + loss).backward()
            optimizer.step()
            if (step + 1) % epoch == 0 and step < self._steps * 3 // 4:
                after_epoch(latent_ND.detach())
            if step % 500 == 0:
                lost = off.item() / vectors_ND.square().sum(-1).mean().item()
                say(f"step {step} of {self._steps}: {lost:.1%} is lost")

    def layers(self) -> tuple[tuple[Tensor, Tensor], ...]:
        linear = [layer for layer in self.encoder if isinstance(layer, nn.Linear)]
        return tuple((layer.weight.detach().clone(), layer.bias.detach().clone()) for layer in linear)


def _layers(sizes: list[int]) -> nn.Sequential:
    parts: list[nn.Module] = []
    for wide, narrow in pairwise(sizes):
        parts += [nn.ReLU()] if parts else []
        parts.append(nn.Linear(wide, narrow))
    return nn.Sequential(*parts)


def _evenness(left_ND: Tensor, signs_KD: Tensor) -> Tensor:
    """How evenly codes are used, beside how sure each vector is of its own (the entropy terms of LFQ)."""
    likely_NK = (2 * left_ND[: max(16, MOST // len(signs_KD))] @ signs_KD.T).softmax(-1)
    return _entropy(likely_NK.mean(0)) - _entropy(likely_NK).mean()


def _entropy(likely: Tensor) -> Tensor:
    return -(likely * likely.clamp(min=1e-9).log()).sum(-1)


def _left(left_ND: Tensor, whole_ND: Tensor) -> float:
    return float(left_ND.square().sum() / whole_ND.square().sum().clamp(min=1e-12))
