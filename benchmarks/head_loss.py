"""Does the head's memory stay flat as the vocabulary grows, and what do smoothing and the z-loss cost?"""

import subprocess
import sys
import time

import torch

from benchmarks.report import THREADS, Figure, medians, memory_added, publish, two_threads
from ptw.nn.head import Form, linear_cross_entropy

TOKENS, WIDTH, ROUNDS = 1024, 128, 5
TIMED_TOKENS = 512
VOCABULARIES = (8192, 32768, 262144)
FORMS = {
    "plain": Form(),
    "label_smoothing": Form(label_smoothing=0.1),
    "z_loss": Form(z_loss=1e-4),
    "both": Form(label_smoothing=0.1, z_loss=1e-4),
}


def main() -> None:
    two_threads()
    figures = []
    peaks = {vocabulary: peak_of(vocabulary) for vocabulary in VOCABULARIES}
    for vocabulary, peak in peaks.items():
        figures.append(Figure(f"vocabulary of {vocabulary}: memory", peak, "GB"))
        figures.append(
            Figure(f"vocabulary of {vocabulary}: all logits would be", logits_of(vocabulary), "GB")
        )
    growth = peaks[VOCABULARIES[-1]] / peaks[VOCABULARIES[1]]
    figures.append(Figure(f"memory, {VOCABULARIES[-1]} / {VOCABULARIES[1]}", growth, want=1.2))
    hidden, weight, targets = case(VOCABULARIES[1], TIMED_TOKENS)
    work = {
        name: lambda form=form: linear_cross_entropy(hidden, weight, targets, len(weight), form).backward()
        for name, form in FORMS.items()
    }
    taken = medians(work, ROUNDS, time.process_time)
    figures += [Figure(f"{name}: tokens per CPU second", TIMED_TOKENS / took) for name, took in taken.items()]
    figures.append(Figure("CPU time, both / plain", taken["both"] / taken["plain"], want=1.25))
    about = (
        f"loss and gradient of {TOKENS} hidden states of {WIDTH}, fp32, below a frozen head; memory is what "
        "a process of its own adds, both options on; CPU time of "
        f"{TIMED_TOKENS} of them at a vocabulary of {VOCABULARIES[1]}, head learning, medians of {ROUNDS} "
        "alternating rounds"
    )
    publish("head_loss", about, figures)


def case(vocabulary: int, tokens: int = TOKENS) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, WIDTH, generator=generator).requires_grad_()
    weight = torch.randn(vocabulary, WIDTH, generator=generator).requires_grad_()
    return hidden, weight, torch.randint(0, vocabulary, (tokens,), generator=generator)


def logits_of(vocabulary: int) -> float:
    return TOKENS * vocabulary * 4 / 1e9


def peak_of(vocabulary: int) -> float:
    """Gigabytes beside the hidden states and the head, in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.head_loss", str(vocabulary)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def added(vocabulary: int) -> float:
    hidden, weight, targets = case(vocabulary)
    frozen = weight.detach()
    return memory_added(
        lambda: linear_cross_entropy(hidden, frozen, targets, vocabulary, FORMS["both"]).backward()
    )


if __name__ == "__main__":
    if len(sys.argv) == 2:
        torch.set_num_threads(THREADS)
        print(added(int(sys.argv[1])))
    else:
        main()
