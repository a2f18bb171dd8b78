"""What does a GPU make of it: training at two shapes, the head's loss, and steps beside Hugging Face's class?

In bf16. `python -m benchmarks.gpu [full | lora | head | steps]`; each part is kept in results/gpu.jsonl, so
that one can follow another. `--tiny` tries the same code at sizes that say nothing, and keeps nothing.
"""

import json
import random
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from benchmarks.report import Figure, Kept, Row, publish
from benchmarks.workspaces import ptw, workspace
from ptw.verify.timing import kept_bytes, seconds

QWEN3_06B = {
    "model_type": "qwen3",
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_hidden_layers": 28,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 40_960,
    "tie_word_embeddings": True,
}
LLAMA3_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14_336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": False,
}
SMALL = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "head_dim": 8}
TOML = """
[workspace]
name = "gpu"
[models.shape]
hf = "model"
[datasets.texts]
source = "data/texts.jsonl"
format = "text"
too_long = "truncate"
[clusters.here]
gpus_per_worker = {gpus}
[recipes.train]
recipe = "pretrain"
model = "shape"
dataset = "texts"
cluster = "here"
settings = {{ {settings} }}
"""


@dataclass(frozen=True)
class Sizes:
    device: str
    vocabularies: tuple[int, int]  # of the two shapes
    windows: tuple[int, int]
    steps: int
    head: tuple[int, int, int]  # tokens, vocabulary, width
    shape: Mapping[str, Any]  # what replaces a shape's own


FULL_SIZES = Sizes("cuda", (151_936, 128_256), (8192, 4096), 24, (16_384, 248_320, 2048), {})
TINY = Sizes("cuda" if torch.cuda.is_available() else "cpu", (512, 512), (64, 64), 4, (64, 512, 32), SMALL)


def full(sizes: Sizes) -> Row:
    """All of Qwen3-0.6B's shape learns, with fp32 master weights."""
    return trained(sizes, QWEN3_06B, 0, {"rows": 4, "rows_at_once": 2, "compile": True})


def lora(sizes: Sizes) -> Row:
    """An adapter of rank 16 learns on Llama-3-8B's shape."""
    return trained(sizes, LLAMA3_8B, 1, {"rows": 8, "rows_at_once": 2, "compile": True, "adapter": "lora"})


def trained(sizes: Sizes, shape: Mapping[str, Any], which: int, settings: Mapping[str, Any]) -> Row:
    """`ptw train` on documents with the spread of chats, every token learnt: medians of its later half."""
    window, vocabulary = sizes.windows[which], sizes.vocabularies[which]
    settings = {**settings, "window": window, "steps": sizes.steps, "precision": "bf16"}
    said = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    gpus = 1 if sizes.device == "cuda" else 0
    with workspace(TOML.format(settings=said, gpus=gpus)) as root:
        make_model(root / "model", {**shape, **sizes.shape, "vocab_size": vocabulary}, sizes.device)
        tokens = window * settings["rows"] * sizes.steps
        with (root / "data" / "texts.jsonl").open("w", encoding="utf-8") as file:
            for length in lengths(2 * tokens, window - 1):
                words = torch.randint(0, vocabulary, (length,)).tolist()
                file.write(json.dumps({"text": " ".join(f"t{word}" for word in words)}) + "\n")
        run = ptw(root, "train", "train").strip()
        lines = (root / "runs" / run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    steps = [line for line in map(json.loads, lines) if line["kind"] == "train"][sizes.steps // 2 :]
    utilised = [step["mfu"] for step in steps if step["mfu"] is not None]
    return {
        "tokens/s": statistics.median(step["tokens"] / step["seconds"] for step in steps),
        "MFU": statistics.median(utilised) if utilised else "-",
        "GB": max(step["memory_bytes"] for step in steps) / 1e9,
        "waits": sum(step["feed_seconds"] for step in steps) / sum(step["seconds"] for step in steps),
    }


def make_model(folder: Path, shape: Mapping[str, Any], device: str) -> None:
    """Random weights, and a tokenizer whose tokens are the words t0, t1, ..."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    from ptw.ports.export import export
    from ptw.ports.load import create

    export(create(shape, None, seed=0, dtype=torch.bfloat16, device=device), folder)
    vocabulary = shape["vocab_size"]
    known = {f"t{number}": number for number in range(vocabulary - 1)} | {"<eos>": vocabulary - 1}
    made = Tokenizer(models.WordLevel(known, unk_token="<eos>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<eos>").save_pretrained(folder)


def lengths(tokens: int, most: int) -> Iterator[int]:
    """Of documents with the spread of chats, most short and few very long, until there are so many tokens."""
    draw, made = random.Random(0), 0
    while made < tokens:
        length = max(2, min(int(draw.lognormvariate(6.0, 1.0)), most))
        made += length
        yield length


def head(sizes: Sizes) -> Row:
    """Loss and gradients of hidden states through the head: in chunks, beside all logits at once."""
    from ptw.nn.head import linear_cross_entropy

    tokens, vocabulary, width = sizes.head
    draw = torch.Generator(sizes.device).manual_seed(0)
    given = {"generator": draw, "device": sizes.device, "dtype": torch.bfloat16}
    hidden = torch.randn(tokens, width, **given).requires_grad_()  # type: ignore[call-overload]
    weight = (torch.randn(vocabulary, width, **given) * width**-0.5).requires_grad_()  # type: ignore[call-overload]
    targets = torch.randint(0, vocabulary, (tokens,), generator=draw, device=sizes.device)

    def at_once() -> Tensor:
        return functional.cross_entropy((hidden @ weight.T).float(), targets, reduction="sum")

    ways: dict[str, Callable[[], Tensor]] = {
        "ptw": lambda: linear_cross_entropy(hidden, weight, targets, vocabulary),
        "all logits": at_once,
    }
    return compared(ways, [hidden, weight], sizes.device, tolerance=1e-3)


def steps(sizes: Sizes) -> Row:
    """Forward, loss and backward of packed documents, and of the same documents padded, of 0.6B's shape."""
    from transformers import AutoConfig, AutoModelForCausalLM

    from ptw.nn.layout import Layout
    from ptw.ports.compiled import compile_blocks
    from ptw.ports.load import load

    vocabulary, window, device = sizes.vocabularies[0], sizes.windows[0], torch.device(sizes.device)
    shape = {**QWEN3_06B, **sizes.shape, "vocab_size": vocabulary}
    documents = list(lengths(window, window // 2))
    documents[-1] -= sum(documents) - window
    documents = [length for length in documents if length > 1]
    with tempfile.TemporaryDirectory() as folder:
        make_model(Path(folder), shape, sizes.device)
        module: Any = load(Path(folder), None).module.to(device, torch.bfloat16).train()
        config = AutoConfig.from_pretrained(folder, attn_implementation="sdpa")
        theirs: Any = AutoModelForCausalLM.from_pretrained(folder, config=config)
    theirs = theirs.to(device, torch.bfloat16).train()
    ids_T = torch.randint(0, vocabulary, (sum(documents),), generator=torch.Generator().manual_seed(0))
    ids, positions, targets, padded = batches(ids_T, documents, device)
    compile_blocks(module)
    compiled = torch.compile(theirs)

    def ours(batch: tuple[Tensor, Tensor], rows: list[list[int]]) -> Tensor:
        layout = Layout.of_documents(rows, batch[0].shape[1], device=device)
        loss: Tensor = module.head().loss(module(batch[0], layout), batch[1]) / len(ids_T)
        return loss

    def of_hf(model: Any) -> Tensor:
        given = {"input_ids": ids, "position_ids": positions, "use_cache": False}
        loss: Tensor = model(
            **given, labels=targets, shift_labels=targets, num_items_in_batch=len(ids_T)
        ).loss
        return loss

    ways: dict[str, Callable[[], Tensor]] = {
        "ptw, packed": lambda: ours((ids, targets), [documents]),
        "ptw, padded": lambda: ours(padded, [[length] for length in documents]),
        "hf, packed": lambda: of_hf(theirs),
        "hf, packed, compiled": lambda: of_hf(compiled),
    }
    weights = [*module.parameters(), *theirs.parameters()]
    found = compared(ways, weights, sizes.device, tolerance=2e-2)
    return found | {"bound": len(documents) * max(documents) / sum(documents)}


def batches(
    ids_T: Tensor, documents: list[int], device: torch.device
) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, Tensor]]:
    """Ids, positions and targets of a packed row; ids and targets of a row for each document."""
    parts = ids_T.split(documents)
    targets = [functional.pad(part[1:], (0, 1), value=-100) for part in parts]
    positions = torch.cat([torch.arange(length) for length in documents])
    padded = [
        torch.nn.utils.rnn.pad_sequence(list(rows), batch_first=True, padding_value=value).to(device)
        for rows, value in ((parts, 0), (targets, -100))
    ]
    packed = (tensor[None].to(device) for tensor in (ids_T, positions, torch.cat(targets)))
    ids, positions, joined = packed
    return ids, positions, joined, (padded[0], padded[1])


def compared(
    ways: Mapping[str, Callable[[], Tensor]], weights: list[Tensor], device: str, tolerance: float
) -> Row:
    """Median seconds and the most memory of each way's loss and gradients; the losses must agree."""
    found: Row = {}
    losses = {}
    for name, way in ways.items():

        def learn(way: Callable[[], Tensor] = way) -> None:
            for weight in weights:
                weight.grad = None
            way().backward()

        losses[name] = way().item()
        found[f"{name}: seconds"] = seconds(learn, device).median().item()
        found[f"{name}: GB"] = kept_bytes(learn, device).item() / 1e9
    least, most = min(losses.values()), max(losses.values())
    assert most - least <= tolerance * abs(most), losses
    return found


PARTS: dict[str, Callable[[Sizes], Row]] = {"full": full, "lora": lora, "head": head, "steps": steps}


def figures(rows: Mapping[str, Row]) -> Iterator[Figure]:
    wanted = {"full: tokens/s": 52_000, "full: MFU": 0.35, "lora: tokens/s": 15_000}
    for part, row in rows.items():
        for name, value in row.items():
            if name not in ("part", "device"):
                want = wanted.get(f"{part}: {name}")
                yield Figure(f"{part}: {name}", value, want=want, better="less" if want is None else "more")
    if "head" in rows:
        for unit in ("seconds", "GB"):
            ratio = float(rows["head"][f"all logits: {unit}"]) / float(rows["head"][f"ptw: {unit}"])
            yield Figure(f"head: all logits / ptw, {unit}", ratio)
    if "steps" in rows:
        ours = float(rows["steps"]["ptw, packed: seconds"])
        for name in ("ptw, padded", "hf, packed", "hf, packed, compiled"):
            yield Figure(f"steps: ptw, packed / {name}", float(rows["steps"][f"{name}: seconds"]) / ours)


def main(asked: list[str], tiny: bool) -> None:
    for name in set(asked) - PARTS.keys():
        sys.exit(f"gpu: there is no part {name!r}; there are {', '.join(PARTS)}")
    if tiny:
        for name in asked or PARTS:
            print(json.dumps({"part": name, **PARTS[name](TINY)}), flush=True)
        return
    if not torch.cuda.is_available():
        sys.exit("gpu: torch sees no CUDA device; --tiny tries the code on a CPU")
    kept, device = Kept("gpu"), torch.cuda.get_device_name()
    for name in asked or PARTS:
        if not kept.has(part=name, device=device):
            kept.add({"part": name, "device": device, **PARTS[name](FULL_SIZES)})
    rows = {str(row["part"]): row for row in kept.rows() if row["device"] == device}
    publish("gpu", f"on one {device}, in bf16; " + ABOUT, list(figures(rows)))


ABOUT = (
    "full: Qwen3-0.6B's shape, rows of 8,192 packed tokens, AdamW, `ptw train`; lora: Llama-3-8B's, rank 16, "
    "rows of 4,096; head: loss and gradients of 16,384 hidden states of 2,048 over 248,320 tokens; steps: "
    "forward, loss and backward of 8,192 tokens in documents with the spread of chats, 0.6B's shape"
)

if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    main(words, "--tiny" in sys.argv)
