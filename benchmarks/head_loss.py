"""Does the head's memory stay flat as the vocabulary grows, and what do smoothing and the z-loss cost?"""

import resource
import subprocess
import sys

import torch

from benchmarks.report import THREADS, Figure, medians, publish, two_threads
from ptw.nn.head import Form, linear_cross_entropy

TOKENS, WIDTH, ROUNDS = 2048, 256, 5
VOCABULARIES = (8192, 32768, 131072, 262144)
FORMS = {
    "plain": Form(),
    "label_smoothing": Form(label_smoothing=0.1),
    "z_loss": Form(z_loss=1e-4),
    "both": Form(label_smoothing=0.1, z_loss=1e-4),
}


def main() -> None:
    two_threads()
    figures = []
    for vocabulary in VOCABULARIES:
        peak = peak_of(vocabulary)
        figures.append(Figure(f"vocabulary of {vocabulary}: memory", peak, "GB"))
        figures.append(
            Figure(f"vocabulary of {vocabulary}: all logits would be", logits_of(vocabulary), "GB")
        )
    ends = [peak_of(vocabulary) for vocabulary in (VOCABULARIES[1], VOCABULARIES[-1])]
    figures.append(Figure(f"memory, {VOCABULARIES[-1]} / {VOCABULARIES[1]}", ends[1] / ends[0], want=1.2))
    hidden, weight, targets = case(VOCABULARIES[1])
    work = {
        name: lambda form=form: linear_cross_entropy(hidden, weight, targets, len(weight), form).backward()
        for name, form in FORMS.items()
    }
    taken = medians(work, ROUNDS)
    figures += [Figure(f"{name}: tokens/s", TOKENS / took) for name, took in taken.items()]
    figures.append(Figure("time, both / plain", taken["both"] / taken["plain"], want=1.25))
    about = (
        f"loss and gradient of {TOKENS} hidden states of {WIDTH}, fp32, below a frozen head; memory is what "
        "a process of its own adds, both options on; times at a vocabulary of "
        f"{VOCABULARIES[1]}, head learning, medians of {ROUNDS} alternating rounds"
    )
    publish("head_loss", about, figures)


def case(vocabulary: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, WIDTH, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, WIDTH, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (TOKENS,), generator=generator)


def logits_of(vocabulary: int) -> float:
    return TOKENS * vocabulary * 4 / 1e9


def peak_of(vocabulary: int) -> float:
    """Gigabytes beside the hidden states and the head, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.head_loss", str(vocabulary)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(done.stdout) * 1024 / 1e9


def added(vocabulary: int) -> None:
    torch.set_num_threads(THREADS)
    hidden, weight, targets = case(vocabulary)
    start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    linear_cross_entropy(hidden, weight.detach(), targets, vocabulary, FORMS["both"]).backward()
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start)


if __name__ == "__main__":
    if len(sys.argv) == 2:
        added(int(sys.argv[1]))
    else:
        main()
