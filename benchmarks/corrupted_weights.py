"""What becomes of a damaged checkpoint: is the file named, or is every tensor as it was?

Not tried is what no reader can see, as safetensors files have no sums: other bits of the numbers, a file of
an older state of the same model, two tensors of one shape and dtype that changed places in a header.
"""

import json
import random
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any

import torch
from torch import Tensor

from benchmarks.damage import Outcome, damaged

INDEX = "model.safetensors.index.json"
SHARD_BYTES = 12_000  # so that a model has several files
WHOLE = 2**30
PLAIN = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "vocab_size": 70}
CONFIGS: tuple[dict[str, Any], ...] = (
    {**PLAIN, "model_type": "llama", "num_key_value_heads": 1, "intermediate_size": 24},
    {"model_type": "gpt2", "n_embd": 16, "n_layer": 2, "n_head": 2, "vocab_size": 70, "n_positions": 32},
    {
        **PLAIN,
        "model_type": "qwen3_moe",
        "num_key_value_heads": 2,
        "head_dim": 8,
        "intermediate_size": 24,
        "moe_intermediate_size": 8,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "tie_word_embeddings": False,
    },
    {**PLAIN, "model_type": "phi3", "num_key_value_heads": 2, "intermediate_size": 24, "pad_token_id": 0},
)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LABELS = (
    "F64",
    "F32",
    "F16",
    "BF16",
    "F8_E4M3",
    "F8_E5M2",
    "I64",
    "I32",
    "U32",
    "I16",
    "U16",
    "U8",
    "BOOL",
    "C64",
)
STRANGE: tuple[Any, ...] = (
    None,
    3,
    True,
    [],
    {},
    "",
    ".",
    "..",
    "../config.json",
    "a\0b",
    "x" * 5000,
    "none",
)

Header = dict[str, Any]
Damage = Callable[[random.Random, Path], object]


def outcome_of(seed: int) -> Outcome:
    """What one damage leads to."""
    draw = random.Random(seed)
    number, dtype, sharded = draw.randrange(len(CONFIGS)), draw.choice(DTYPES), draw.random() < 0.6
    good = _good(number, dtype, sharded)
    damages = [_bytes, _head_bits, _header, _header, _header] + [_index, _shards] * sharded
    damage = draw.choice(damages)
    without_port = CONFIGS[number]["model_type"] == "llama" and draw.random() < 0.2
    with TemporaryDirectory() as folder:
        bad = Path(folder) / "bad"
        shutil.copytree(good, bad)
        damage(draw, bad)
        kind = f"{CONFIGS[number]['model_type']} in {dtype}, {damage.__name__}, seed {seed}"
        return _loaded(kind, bad, good, "none" if without_port else None)


def _loaded(kind: str, bad: Path, good: Path, port: str | None) -> Outcome:
    from ptw.errors import PtwError
    from ptw.ports.load import load

    try:
        found = load(bad, None, port=port, dtype=torch.float32).module.state_dict()
    except PtwError as error:
        names = {path.name for folder in (bad, good) for path in folder.glob("*.safetensors*")}
        return Outcome(kind, "refused" if any(n in str(error) for n in names) else "no place", str(error))
    except Exception as error:
        return Outcome(kind, "exception", f"{type(error).__name__}: {error}")
    wrong = [name for name, tensor in _tensors(good, port).items() if not torch.equal(tensor, found[name])]
    return Outcome(kind, "lost" if wrong else "read", ", ".join(wrong[:3]))


@cache
def _tensors(good: Path, port: str | None) -> dict[str, Tensor]:
    from ptw.ports.load import load

    return load(good, None, port=port, dtype=torch.float32).module.state_dict()


@cache
def _good(number: int, dtype: torch.dtype, sharded: bool) -> Path:
    """A checkpoint of the model as ptw exports it."""
    from ptw.ports.export import export
    from ptw.ports.load import create

    folder = Path(_home()) / f"{number}-{dtype}-{sharded}"
    loaded = create(CONFIGS[number], None, seed=number, dtype=dtype)
    with torch.no_grad():
        for own in loaded.module.parameters():
            if own.dim() == 1:  # else all norms would be alike
                own.normal_(1.0, 0.1, generator=torch.Generator().manual_seed(own.numel() + number))
    export(loaded, folder, shard_bytes=SHARD_BYTES if sharded else WHOLE)
    return folder


@cache
def _home() -> str:
    import atexit

    home = mkdtemp(prefix="ptw-benchmark-")
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def _bytes(draw: random.Random, folder: Path) -> None:
    """A file is cut off or empty: what changes bytes in place may change a number only."""
    file = draw.choice(sorted(folder.glob("*.safetensors*")))
    content = file.read_bytes()
    if file.name == INDEX:
        file.write_bytes(damaged(draw, content))
    else:
        file.write_bytes(content[: draw.choice([0, draw.randrange(16), draw.randrange(len(content))])])


def _head_bits(draw: random.Random, folder: Path) -> None:
    """Bits of the length and the header, or bytes there, are others."""
    file = draw.choice(sorted(folder.glob("*.safetensors")))
    content = bytearray(file.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    for _ in range(draw.randint(1, 6)):
        at = draw.randrange(8 if draw.random() < 0.2 else end)
        content[at] = content[at] ^ 1 << draw.randrange(8) if draw.random() < 0.7 else draw.randrange(256)
    file.write_bytes(content)


def _header(draw: random.Random, folder: Path) -> None:
    """Its JSON says another place, dtype, shape or name, one tensor more or one less."""
    file = draw.choice(sorted(folder.glob("*.safetensors")))
    header, data = _opened(file)
    name = draw.choice(sorted(header))
    entry = header[name]
    match draw.randrange(7):
        case 0:
            entry["data_offsets"][draw.randrange(2)] += draw.choice([-64, -4, -1, 1, 2, 4, 64, 2**40])
        case 1:
            entry["data_offsets"] = list(header[draw.choice(sorted(header))]["data_offsets"])
        case 2:
            entry["dtype"] = draw.choice(LABELS)
        case 3:
            entry["shape"] = draw.choice(
                [entry["shape"][::-1], [1, *entry["shape"]], entry["shape"][:-1], [-1], [2**63], [[1]], "x"]
            )
        case 4:
            header[draw.choice([f"{name}x", "extra", ""])] = header.pop(name)
        case 5:
            size = len(data)
            header[draw.choice(["extra.weight", f"{name}_scale_inv", "lm_head.bias"])] = {
                "dtype": "F32",
                "shape": [2],
                "data_offsets": [size, size + 8],
            }
            data += bytes(8)
        case _:
            start, end = header.pop(name)["data_offsets"]
            data = data[:start] + data[end:]
            for other in header.values():
                if other["data_offsets"][0] >= end:
                    other["data_offsets"] = [at - (end - start) for at in other["data_offsets"]]
    _put(file, header, data)


def _index(draw: random.Random, folder: Path) -> None:
    """It names what is not there, or not what is there, or is gone."""
    file = folder / INDEX
    index = json.loads(file.read_text())
    weight_map = index["weight_map"]
    name = draw.choice(sorted(weight_map))
    match draw.randrange(6):
        case 0:
            weight_map["extra.weight"] = weight_map[name]
        case 1:
            weight_map[name] = draw.choice(sorted(set(weight_map.values())))
        case 2:
            weight_map[name] = draw.choice(STRANGE)
        case 3:
            del weight_map[name]
        case 4:
            index["weight_map"] = draw.choice(STRANGE)
        case _:
            file.unlink()
            return
    file.write_text(json.dumps(index))


def _shards(draw: random.Random, folder: Path) -> None:
    """One is gone, is another's copy, or holds an old state of another one's tensor."""
    files = sorted(folder.glob("*.safetensors"))
    first, second = draw.sample(files, 2)
    match draw.randrange(3):
        case 0:
            first.unlink()
        case 1:
            shutil.copyfile(first, second)
        case _:
            theirs, _ = _opened(first)
            header, data = _opened(second)
            name = draw.choice(sorted(theirs))
            size = theirs[name]["data_offsets"][1] - theirs[name]["data_offsets"][0]
            header[name] = {**theirs[name], "data_offsets": [len(data), len(data) + size]}
            _put(second, header, data + draw.randbytes(size))
            if draw.random() < 0.3:
                (folder / INDEX).unlink()


def _opened(file: Path) -> tuple[Header, bytes]:
    content = file.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header.pop("__metadata__", None)
    return header, content[end:]


def _put(file: Path, header: Header, data: bytes) -> None:
    text = json.dumps(header).encode()
    file.write_bytes(len(text).to_bytes(8, "little") + text + data)
