"""Three steps of verl's engine on documents of several lengths; what they gave is put into a file.

python verl_steps.py VENDOR WORLD CHECKPOINT TARGET; VENDOR is ptw, or another for verl's own engine.
"""

import os
import sys
from pathlib import Path
from typing import Any

import torch
import torch.multiprocessing
import verl_on_cpu  # noqa: F401

LENGTHS = (7, 12, 3, 20, 5, 16, 9, 4)
FP32 = {"param_dtype": "fp32", "reduce_dtype": "fp32", "buffer_dtype": "fp32"}


def steps(rank: int, vendor: str, world: int, checkpoint: str, target: str, port: int) -> None:
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "VERL_ENGINE_VENDOR": vendor}
    address = f"tcp://127.0.0.1:{port}"
    torch.distributed.init_process_group("gloo", init_method=address, rank=rank, world_size=world)
    from verl.workers.utils.losses import sft_loss

    def loss(model_output: Any, data: Any, dp_group: Any) -> Any:
        return sft_loss(None, model_output, data, dp_group)

    engine = made(checkpoint, packed=vendor == "ptw")
    with engine.train_mode():
        found = [engine.train_batch(documents(rank, world, vendor == "ptw"), loss) for _ in range(3)]
    norms = [one["metrics"]["grad_norm"] for one in found]
    tensors = {name: tensor.detach().clone() for name, tensor in engine.get_per_tensor_param()[0]}
    engine.save_checkpoint(f"{target}.checkpoint", global_step=3)
    if rank == 0:
        torch.save({"norms": norms, "losses": [one["loss"] for one in found], "tensors": tensors}, target)
    torch.distributed.destroy_process_group()


def made(checkpoint: str, packed: bool) -> Any:
    from verl.trainer.config import CheckpointConfig
    from verl.workers.config import FSDPEngineConfig, FSDPOptimizerConfig, HFModelConfig
    from verl.workers.engine import EngineRegistry

    import ptw.rl.verl_engine  # noqa: F401

    asked = {"override_config": {"attn_implementation": "sdpa"}, "use_remove_padding": packed}
    model = HFModelConfig(path=checkpoint, load_tokenizer=False, **asked)
    sharded = FSDPEngineConfig(strategy="fsdp2", use_torch_compile=False, mixed_precision=FP32)
    saved = CheckpointConfig(save_contents=["model", "optimizer", "extra", "hf_model"])
    chosen = EngineRegistry.get_engine_cls("language_model", "fsdp2")
    engine = chosen(model, sharded, FSDPOptimizerConfig(lr=1e-3, total_training_steps=10), saved)
    engine.initialize()
    return engine


def documents(rank: int, world: int, packed: bool) -> Any:
    """This process's part of them, in passes of two."""
    from verl.utils.tensordict_utils import get_tensordict

    draw = torch.Generator().manual_seed(1)
    drawn = [torch.randint(0, 300, (length,), generator=draw) for length in LENGTHS]
    own = drawn[rank::world]
    tensors = {
        "input_ids": own,
        "position_ids": [torch.arange(len(one)) for one in own],
        "loss_mask": [(torch.arange(len(one)) > 0).float() for one in own],  # nobody foretells a first token
    }
    nested = {name: torch.nested.nested_tensor(parts, layout=torch.jagged) for name, parts in tensors.items()}
    settings = {"use_dynamic_bsz": False, "micro_batch_size_per_gpu": 2, "temperature": 1.0}
    return get_tensordict(nested, {**settings, "use_remove_padding": packed})


if __name__ == "__main__":
    vendor, world, checkpoint, target, port = sys.argv[1:]
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    torch.multiprocessing.spawn(steps, (vendor, int(world), checkpoint, target, int(port)), nprocs=int(world))
