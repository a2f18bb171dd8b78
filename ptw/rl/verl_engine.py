"""How does verl train a port? As the model of an engine of its own, in place of transformers' class.

    VERL_ENGINE_VENDOR=ptw python -m verl.trainer.main_ppo ... actor_rollout_ref.actor.strategy=fsdp2 \\
        actor_rollout_ref.model.external_lib=ptw.rl.verl_engine

Algorithms, rollouts, resource pools and checkpoints stay verl's. Documents are packed where it packs them
(`use_remove_padding`), and vLLM gets the weights under the checkpoint's names. The port is one of ptw's or,
where PTW_WORKSPACE names a folder, one of its models/.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import CausalLMOutput
from verl.utils.device import get_device_id, get_device_name
from verl.utils.torch_dtypes import PrecisionType
from verl.workers.engine.base import EngineRegistry
from verl.workers.engine.fsdp.transformer_impl import FSDPEngineWithLMHead

from ptw.errors import PtwError
from ptw.nn.layout import Layout
from ptw.ports.export import export
from ptw.ports.load import load, to_hf
from ptw.ports.parallel import mesh_of, reshard, shard, whole
from ptw.ports.port import Port
from ptw.train.parallel import full_state, recompute

WORKSPACE = "PTW_WORKSPACE"
HF_MODEL = "hf_model"  # of what a checkpoint saves: a folder that transformers loads


class PackedModel(nn.Module):
    """A port as verl asks a model: ids in, logits out; `config` is transformers'."""

    def __init__(self, port: nn.Module, config: Any) -> None:
        super().__init__()
        self.port, self.config = port, config

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,  # the documents' lengths say them
        cu_seqlens: Tensor | None = None,
        cu_seqlens_cpu: Tensor | None = None,
        use_cache: bool = False,
    ) -> CausalLMOutput:
        """One row of documents that end at `cu_seqlens`, or a document a row, padded on the right."""
        if (ends := cu_seqlens if cu_seqlens_cpu is None else cu_seqlens_cpu) is not None:
            lengths = [ends.diff().tolist()]
        elif attention_mask is not None:
            lengths = attention_mask.sum(-1, keepdim=True).tolist()
        elif position_ids is not None and bool((position_ids.diff() <= 0).any()):
            raise PtwError(
                "verl: position_ids begin anew within a row, but neither cu_seqlens nor attention_mask says "
                "where its documents end; give cu_seqlens, as verl 0.9 does"
            )
        else:
            lengths = [[input_ids.shape[1]]] * len(input_ids)
        layout = Layout.of_documents(lengths, input_ids.shape[1], input_ids.device)
        hidden_BTD = self.port(input_ids, layout)
        return CausalLMOutput(logits=self.port.head().logits(hidden_BTD))  # type: ignore[operator]

    def can_generate(self) -> bool:
        """False: verl asks before it saves how to generate."""
        return False


@EngineRegistry.register(model_type="language_model", backend="fsdp2", device=["cuda", "cpu"], vendor="ptw")
class PortEngine(FSDPEngineWithLMHead):
    """verl's engine with a port that is spread by ptw: master weights in fp32, no autocast."""

    def _build_module(self) -> nn.Module:
        self._demand_known()
        mixed = self.engine_config.mixed_precision or {}
        computed_in = PrecisionType.to_dtype(mixed.get("param_dtype", "bf16"))
        held_in = PrecisionType.to_dtype(self.engine_config.model_dtype or "fp32")
        world, size = torch.distributed.get_world_size(), self.engine_config.fsdp_size
        mesh = mesh_of(world, get_device_name(), replicas=world // size if 0 < size < world else 1)
        spread_out: list[PackedModel] = []

        def spread(module: nn.Module, port: Port | None, config: Any) -> None:
            if port is None:
                raise PtwError(
                    f"verl: {self.model_config.local_path}: there is no port of this family; leave out "
                    "VERL_ENGINE_VENDOR and external_lib, or add one with `ptw add-model`"
                )
            model = PackedModel(module, self.model_config.hf_config)
            shard(model, mesh, None if computed_in == held_in else computed_in)
            spread_out.append(model)

        root = Path(os.environ[WORKSPACE]) if WORKSPACE in os.environ else None
        folder = Path(self.model_config.local_path)
        self._loaded = load(folder, root, dtype=held_in, device=get_device_id(), spread=spread)
        (model,) = spread_out
        if self.model_config.enable_gradient_checkpointing:
            recompute(model)
        return model

    def _build_fsdp_module(self, module: nn.Module) -> nn.Module:
        """As it is: it was read straight onto the mesh. Parameters are cast by FSDP2, and nothing else is."""
        self._autocast_dtype = torch.float32
        self.scaler = None
        return module

    def _demand_known(self) -> None:
        """PtwError for what only transformers' classes have here."""
        refused = {
            "model.lora_rank": self.model_config.lora_rank > 0,
            "model.use_fused_kernels": self.model_config.use_fused_kernels,
            "model.use_liger": self.model_config.use_liger,
            "offload_policy": self.engine_config.offload_policy,
            "qat.enable": self.engine_config.qat.enable,
            "ulysses_sequence_parallel_size": self.engine_config.ulysses_sequence_parallel_size > 1,
        }
        for key, asked in refused.items():
            if asked:
                raise PtwError(f"verl: {key}: ptw's engine has none; leave it out, or VERL_ENGINE_VENDOR")

    def get_per_tensor_param(self, **kwargs: Any) -> tuple[Iterator[tuple[str, Tensor]], None]:
        """Whole tensors under the checkpoint's names, one operator of the port's weight map at a time."""
        reshard(self.module)
        return to_hf(self._loaded.operators, _Whole(self._loaded.module.state_dict())), None

    def get_per_tensor_param_shard(self, **kwargs: Any) -> Any:
        """PtwError: a shard of a port's tensor is none of a tensor of the checkpoint."""
        raise PtwError("verl: rollouts by deltas of shards: ptw's engine sends whole tensors; choose another")

    def save_checkpoint(self, local_path: str, *args: Any, **kwargs: Any) -> None:
        """verl's; where `hf_model` is asked for, the folder is written as `ptw export` writes it."""
        reshard(self.module)
        manager = self.checkpoint_manager
        asked = list(manager.checkpoint_save_contents)
        manager.checkpoint_save_contents = [one for one in asked if one != HF_MODEL]
        try:
            super().save_checkpoint(local_path, *args, **kwargs)
        finally:
            manager.checkpoint_save_contents = asked
        if HF_MODEL not in asked:
            return
        first = torch.distributed.get_rank() == 0
        state = full_state(self._loaded.module, first)
        if first:
            export(self._loaded, Path(local_path) / "huggingface" / "model", state=state)


class _Whole(Mapping[str, Tensor]):
    """Gathered when it is asked for; every process asks for all, in the same order."""

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        self._state = state

    def __getitem__(self, name: str) -> Tensor:
        return whole(self._state[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self._state)

    def __len__(self) -> int:
        return len(self._state)
