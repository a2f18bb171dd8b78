"""Our advantages and losses are those of verl and TRL, on random inputs."""

from pathlib import Path
from typing import Any

import pytest
import torch

from ptw.rl.reference import divergence
from ptw.workspace import rooms

pytestmark = pytest.mark.rl

grpo = rooms.load(rooms.stock("recipes") / "grpo.py")
dpo = rooms.load(rooms.stock("recipes") / "dpo.py")
PROMPTS, ANSWERS, WIDTH = 5, 4, 11


@pytest.fixture(scope="module")
def algos() -> Any:
    from verl.trainer.ppo import core_algos

    return core_algos


@pytest.fixture
def drawn() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    count = PROMPTS * ANSWERS
    lengths = torch.randint(1, WIDTH + 1, (count,))
    mask = (torch.arange(WIDTH) < lengths[:, None]).double()
    before, now, reference = torch.randn(3, count, WIDTH, dtype=torch.float64) * 0.4 - 2
    return {
        "mask": mask,
        "before": before,
        "now": now,
        "reference": reference,
        "rewards": torch.randn(PROMPTS, ANSWERS, dtype=torch.float64),
        "lengths": lengths.double(),
    }


def settings_of(**values: Any) -> Any:
    return grpo.Settings(rewards=["x"], max_new_tokens=WIDTH, **values)


@pytest.mark.parametrize(
    ("ours", "theirs", "extra"),
    [
        ("grpo", "compute_grpo_outcome_advantage", {}),
        ("dr", "compute_grpo_outcome_advantage", {"norm_adv_by_std_in_grpo": False}),
        ("rloo", "compute_rloo_outcome_advantage", {}),
    ],
)
def test_advantages_are_verls(
    algos: Any, drawn: dict[str, torch.Tensor], ours: str, theirs: str, extra: dict[str, Any]
) -> None:
    import numpy as np

    token_rewards = torch.zeros_like(drawn["mask"])
    token_rewards[:, 0] = drawn["rewards"].flatten()
    index = np.repeat(np.arange(PROMPTS), ANSWERS)
    wanted, _ = getattr(algos, theirs)(token_rewards, drawn["mask"], index, **extra)
    found = grpo.advantages(drawn["rewards"], settings_of(advantage=ours)).flatten()[:, None] * drawn["mask"]
    torch.testing.assert_close(found, wanted.double(), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("tokens", "token-mean"), ("answers", "seq-mean-token-mean"), ("constant", "seq-mean-token-sum-norm")],
)
def test_clipped_losses_and_kl_are_verls(
    algos: Any, drawn: dict[str, torch.Tensor], ours: str, theirs: str
) -> None:
    settings = settings_of(weigh=ours, clip_low=0.2, clip_high=0.28)
    learnt = drawn["mask"] > 0
    advantage = grpo.advantages(drawn["rewards"], settings).flatten()[:, None].expand_as(learnt)
    now = drawn["now"].clone().requires_grad_()
    loss_M, clipped_M = grpo.surrogate(now[learnt], drawn["before"][learnt], advantage[learnt], settings)
    loss_M = loss_M + 0.1 * divergence(now[learnt], drawn["reference"][learnt])
    lengths_M = drawn["lengths"][:, None].expand_as(learnt)[learnt]
    weights_M = grpo.weights(lengths_M, len(now), int(learnt.sum()), settings)
    loss = (weights_M * loss_M).sum()
    loss.backward()

    theirs_now = drawn["now"].clone().requires_grad_()
    ratio = (theirs_now - drawn["before"]).exp()
    wanted, clipped = _verls_policy_loss(algos, drawn, theirs_now, advantage, theirs)
    kl = algos.kl_penalty(theirs_now, drawn["reference"], "low_var_kl")
    wanted = wanted + 0.1 * algos.agg_loss(kl, drawn["mask"], theirs)
    wanted.backward()
    assert ratio.max() > 1.28
    torch.testing.assert_close(loss, wanted, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(now.grad, theirs_now.grad, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(clipped_M.mean().item(), float(clipped), rtol=1e-6, atol=1e-6)


def _verls_policy_loss(
    algos: Any, drawn: dict[str, torch.Tensor], now: torch.Tensor, advantage: torch.Tensor, mode: str
) -> tuple[torch.Tensor, float]:
    from verl.workers.config import ActorConfig

    config = ActorConfig(
        strategy="fsdp2",
        clip_ratio=0.2,
        clip_ratio_low=0.2,
        clip_ratio_high=0.28,
        clip_ratio_c=1e9,  # the dual clip is not ours
        rollout_n=ANSWERS,
        ppo_micro_batch_size_per_gpu=1,
    )
    loss, metrics = algos.compute_policy_loss_vanilla(
        drawn["before"], now, advantage, drawn["mask"], loss_agg_mode=mode, config=config
    )
    return loss, metrics["actor/pg_clipfrac"]


@pytest.mark.filterwarnings("ignore")  # TRL's and its parts' own
@pytest.mark.parametrize(("ours", "theirs"), [("dpo", "sigmoid"), ("ipo", "ipo"), ("kto", "apo_zero")])
def test_preference_losses_are_trls(tmp_path: Path, ours: str, theirs: str) -> None:
    from datasets import Dataset
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
    from trl import DPOConfig, DPOTrainer

    from tests.train.conftest import make_workspace, planned, trained

    torch.manual_seed(0)
    taught = trained(planned(make_workspace(tmp_path / "ws"), "chat", steps=1)).folder / "model"
    tokenizer = AutoTokenizer.from_pretrained(taught)
    config = LlamaConfig.from_pretrained(taught)
    model, reference = LlamaForCausalLM(config), LlamaForCausalLM(config)
    rows = [
        {
            "prompt": [{"role": "user", "content": f"{n}?"}],
            "chosen": [{"role": "assistant", "content": str(n + 1)}],
            "rejected": [{"role": "assistant", "content": "No. " * (1 + n % 3)}],
        }
        for n in range(6)
    ]
    arguments = DPOConfig(
        output_dir=str(tmp_path / "trl"),
        loss_type=[theirs],
        beta=0.3,
        per_device_train_batch_size=6,
        report_to=[],
        use_cpu=True,
        bf16=False,
        activation_checkpointing=False,
    )
    trainer = DPOTrainer(
        model=model,
        ref_model=reference,
        args=arguments,
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer,
    )
    batch = next(iter(trainer.get_train_dataloader()))
    wanted = trainer.compute_loss(model, batch)
    ratios = _ratios(model, reference, batch)
    settings = dpo.Settings(loss=ours, beta=0.3)
    if ours == "ipo":
        ratios = ratios / _lengths(batch)
    torch.testing.assert_close(dpo.loss(ratios, settings).mean(), wanted, rtol=1e-5, atol=1e-6)


def _ratios(model: Any, reference: Any, batch: Any) -> torch.Tensor:
    """(N, 2) log-probabilities over the reference's; of TRL's batch the first half are the chosen answers."""
    found = []
    for one in (model, reference):
        logits = one(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
        picked = logits.log_softmax(-1).gather(-1, batch["input_ids"][:, 1:, None]).squeeze(-1)
        found.append((picked * batch["completion_mask"][:, 1:]).sum(-1))
    chosen, rejected = (found[0] - found[1]).chunk(2)
    return torch.stack([chosen, rejected], -1)


def _lengths(batch: Any) -> torch.Tensor:
    chosen, rejected = batch["completion_mask"][:, 1:].sum(-1).chunk(2)
    return torch.stack([chosen, rejected], -1)
