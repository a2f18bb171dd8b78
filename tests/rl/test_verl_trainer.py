"""All of verl's GRPO with a port as actor and reference, and vLLM's rollouts: both see the same weights."""

import os
import re
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pyarrow
import pytest
from pyarrow import parquet

from ptw.runs import record
from tests.rl.test_vllm import WIDE
from tests.train.conftest import declare, make_workspace, planned, trained

pytestmark = pytest.mark.rl
HERE = Path(__file__).parent
REWARD = """
def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_):
    return sum(letter.isdigit() for letter in solution_str) / max(1, len(solution_str))
"""
FP32 = "{param_dtype:fp32,reduce_dtype:fp32,buffer_dtype:fp32}"
SETTINGS = """
algorithm.adv_estimator=grpo
data.train_batch_size=8 data.max_prompt_length=64 data.max_response_length=16 data.dataloader_num_workers=0
actor_rollout_ref.model.external_lib=ptw.rl.verl_engine
actor_rollout_ref.model.use_remove_padding=True
actor_rollout_ref.actor.strategy=fsdp2 actor_rollout_ref.actor.ppo_mini_batch_size=8
actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu=4 actor_rollout_ref.actor.optim.lr=1e-2
actor_rollout_ref.actor.use_kl_loss=True actor_rollout_ref.actor.kl_loss_coef=0.001
actor_rollout_ref.actor.fsdp_config.model_dtype=fp32 actor_rollout_ref.actor.fsdp_config.dtype=float32
actor_rollout_ref.actor.fsdp_config.use_torch_compile=False actor_rollout_ref.actor.use_torch_compile=False
actor_rollout_ref.actor.use_dynamic_bsz=False actor_rollout_ref.ref.fsdp_config.use_torch_compile=False
actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu=8
actor_rollout_ref.rollout.name=vllm actor_rollout_ref.rollout.n=4 actor_rollout_ref.rollout.dtype=float32
actor_rollout_ref.rollout.load_format=auto actor_rollout_ref.rollout.tensor_model_parallel_size=1
actor_rollout_ref.rollout.gpu_memory_utilization=0.2 actor_rollout_ref.rollout.enforce_eager=True
actor_rollout_ref.rollout.free_cache_engine=False +actor_rollout_ref.rollout.enable_sleep_mode=False
actor_rollout_ref.rollout.max_model_len=96 actor_rollout_ref.rollout.max_num_seqs=16
actor_rollout_ref.rollout.max_num_batched_tokens=512 actor_rollout_ref.rollout.agent.num_workers=1
actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu=8
actor_rollout_ref.rollout.checkpoint_engine.update_weights_bucket_megabytes=64
actor_rollout_ref.rollout.calculate_log_probs=True
+actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls=vllm_unpacked.Worker
reward.custom_reward_function.name=compute_score reward.num_workers=1
trainer.n_gpus_per_node=1 trainer.nnodes=1 trainer.device=cpu trainer.logger=["console"]
trainer.total_training_steps=3 trainer.total_epochs=3 trainer.save_freq=-1 trainer.test_freq=-1
trainer.val_before_train=False transfer_queue.backend.SimpleStorage.num_data_storage_units=1
+ray_kwargs.ray_init.num_gpus=1 ray_kwargs.ray_init.num_cpus=12 +ray_kwargs.ray_init.include_dashboard=False
"""


@pytest.fixture(scope="module")
def said(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What three steps print."""
    folder = tmp_path_factory.mktemp("verl")
    workspace = declare(make_workspace(folder / "ws"), WIDE)
    model = trained(planned(workspace, "teach")).folder / record.MODEL
    rows = [
        {
            "data_source": "sums",
            "prompt": [{"role": "user", "content": f"What is {n} and one?"}],
            "reward_model": {"style": "rule", "ground_truth": str(n + 1)},
            "extra_info": {"index": n},
        }
        for n in range(12)
    ] * 2
    parquet.write_table(pyarrow.Table.from_pylist(rows), folder / "rows.parquet")
    (folder / "reward.py").write_text(REWARD)
    command = [
        *(sys.executable, "-m", "verl.trainer.main_ppo", *SETTINGS.split()),
        f"data.train_files={folder / 'rows.parquet'}",
        f"data.val_files={folder / 'rows.parquet'}",
        f"actor_rollout_ref.model.path={model}",
        f"reward.custom_reward_function.path={folder / 'reward.py'}",
        f"trainer.default_local_dir={folder / 'checkpoints'}",
        f"+actor_rollout_ref.actor.fsdp_config.mixed_precision={FP32}",
        f"+actor_rollout_ref.ref.fsdp_config.mixed_precision={FP32}",
    ]
    environment = os.environ | {
        "HF_HUB_OFFLINE": "1",
        "PYTHONPATH": f"{named_vllm(folder)}:{HERE}:{HERE.parents[1]}",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        "VERL_ENGINE_VENDOR": "ptw",
        "VERL_PLATFORM": "cpu",
        "VERL_USE_EXTERNAL_MODULES": "verl_on_cpu",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        "VLLM_NO_USAGE_STATS": "1",
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout + done.stderr


def named_vllm(folder: Path) -> Path:
    """verl asks for the version of `vllm`; what is there is called vllm-cpu."""
    own = f"{version('vllm-cpu')}+cpu"
    about = folder / "named" / f"vllm-{own}.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {own}\n")
    return about.parent


def steps_of(said: str) -> list[dict[str, float]]:
    number = r"(-?[\d.]+(?:e-?\d+)?)"
    lines = [line for line in said.splitlines() if re.search(r"step:\d+ - ", line)]
    return [
        {name: float(value) for name, value in re.findall(rf"([\w/@.-]+):{number}", one)} for one in lines
    ]


def test_three_steps_learn_with_a_port(said: str) -> None:
    steps = steps_of(said)
    assert len(steps) == 3
    assert "PackedModel" in said, "the actor was no class of transformers"
    for step in steps:
        assert step["training/rollout_probs_diff_max"] < 1e-4, "trainer and rollouts see the same weights"
        assert step["actor/grad_norm"] > 0
