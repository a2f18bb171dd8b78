"""vLLM draws with the weights of the step, is killed and replaced, and what it says is what the port says."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from ptw.nn.layout import Layout
from ptw.nn.nucleus import drawable, log_probs_among
from ptw.ports.export import export
from ptw.ports.load import create, load
from ptw.rl.engine import Asked, Sampling, Vllm
from ptw.runs import lines, record
from ptw.train import launch
from ptw.verify.verify import Request, verify
from ptw.workspace.manifest import read
from tests.rl import vllm_apart
from tests.rl.conftest import with_rewards
from tests.rl.vllm_apart import SAMPLING, apart
from tests.train.conftest import declare, make_workspace, measured_of, planned, steps_of, trained

pytestmark = [pytest.mark.rl, pytest.mark.filterwarnings("ignore")]  # vLLM's own

WIDE = """
[models.wide.config]
model_type = "llama"
hidden_size = 64
intermediate_size = 96
num_hidden_layers = 2
num_attention_heads = 2
num_key_value_heads = 1
max_position_embeddings = 128
tie_word_embeddings = true
[recipes.teach]
recipe = "sft"
model = "wide"
tokenizer = "words"
dataset = "chats"
settings = { steps = 12, window = 128, rows = 2, learning_rate = 1e-2 }
"""  # vLLM's attention on a CPU wants heads of 32
ON_VLLM = {"engine": "vllm", "rows_at_once": "8", "steps": "8"}
AHEAD = {**ON_VLLM, "ahead": "1", "top_p": "0.95", "temperature": "0.9"}


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = declare(make_workspace(tmp_path_factory.mktemp("wide") / "ws"), WIDE)
    return trained(planned(root, "teach")).folder / record.MODEL


@pytest.fixture
def root(tmp_path: Path, taught: Path) -> Path:
    return with_rewards(tmp_path / "ws", taught)


@pytest.fixture(scope="module")
def engine(taught: Path) -> Vllm:
    return Vllm(taught, 64, SAMPLING, "float32", 0.3)


def test_it_says_what_the_port_says_also_with_other_weights(
    engine: Vllm, taught: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    asked = [Asked((1, 5, 9, 20 + n), n) for n in range(8)]
    drawn = engine.generate(asked)
    assert apart(taught, asked, drawn) < 1e-4
    assert engine.generate(asked[3:4])[0].ids == drawn[3].ids, "alone as among others"
    many = [Asked(tuple(range(5, 55)), n) for n in range(200)]  # more than it reads at once
    assert len(engine.generate(many)) == 200
    other = tmp_path / "other"
    other.mkdir()
    torch.manual_seed(0)
    tensors = load_file(taught / "model.safetensors")
    moved = {name: value + 0.05 * torch.randn_like(value) for name, value in tensors.items()}
    save_file(moved, other / "model.safetensors", {"format": "pt"})
    (other / "config.json").write_bytes((taught / "config.json").read_bytes())
    engine.load(other)
    new = engine.generate(asked)
    assert apart(other, asked, new) < 1e-4
    assert apart(taught, asked, new) > 0.05, "these are other weights"
    engine.load(taught)
    assert [one.ids for one in engine.generate(asked)] == [one.ids for one in drawn]


EXPERTS = {
    **{"model_type": "qwen3_moe", "vocab_size": 300, "hidden_size": 64, "intermediate_size": 96},
    **{"num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32},
    **{"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32, "norm_topk_prob": True},
    **{"max_position_embeddings": 128, "eos_token_id": 2},
}


def test_it_says_what_a_port_with_experts_says_also_with_other_weights(tmp_path: Path) -> None:
    """In a process of its own: vLLM makes its groups once, and other ones where there are experts."""
    folders = [tmp_path / "first", tmp_path / "other"]
    for seed, folder in enumerate(folders):
        export(create(EXPERTS, None, seed=seed), folder)
    command = [sys.executable, vllm_apart.__file__, *map(str, folders)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, other, old = map(float, done.stdout.splitlines()[-1].split())
    assert first < 1e-4
    assert other < 1e-4
    assert old > 0.01, "these are other weights"


def test_its_tokenizer_is_the_trainers(taught: Path, tmp_path: Path) -> None:
    run, root = taught.parent.name, taught.parents[2]
    report = verify(root, Request(("words", "items", run), tokenizers=True))
    assert report.passed, [subject.words for subject in report.tokenizers]
    for subject in report.tokenizers:
        verifiers = {verifier for verifier, _, side, _ in subject.by_case if side == "vLLM on the export"}
        assert verifiers >= {"texts", "vocabulary", "round_trip"}
        assert ("templates" in verifiers) == (subject.name != "items")
        assert not [text for text in subject.not_run if "vLLM" in text]
    copied = Path(shutil.copytree(root, tmp_path / "ws"))
    for file in ("tekken.json", "consolidated.safetensors"):  # as Mistral's, which vLLM alone looks for
        (copied / taught.relative_to(root) / file).write_text("{}")
    (other,) = verify(copied, Request((run,), tokenizers=True)).tokenizers
    assert not other.passed
    assert [failure.split(":")[0] for failure in other.failures] == ["vLLM on the export"]


def test_what_top_p_and_top_k_leave_is_what_its_probabilities_are_of(taught: Path) -> None:
    narrow = Sampling(0.8, 0.8, 20, 12, (2,))
    drawn = Vllm(taught, 64, narrow, "float32", 0.3).generate([Asked((1, 5, 9, 20 + n), n) for n in range(8)])
    model = load(taught, None, dtype=torch.float32).module
    for n, answer in enumerate(drawn):
        ids_BT = torch.tensor([[1, 5, 9, 20 + n, *answer.ids]])
        with torch.no_grad():
            hidden_BTD = model(ids_BT, Layout.of_documents([[ids_BT.shape[1]]]))
        head, hidden_MD, targets_M = model.head(), hidden_BTD[0, 3:-1], torch.tensor(answer.ids)
        among = drawable(head, hidden_MD, targets_M, 0.8, 0.8, 20)
        assert among is not None
        assert among.counts_M.max() <= 20
        own_M = log_probs_among(head, hidden_MD, targets_M, 0.8, among)
        torch.testing.assert_close(own_M.detach(), torch.tensor(answer.log_probs), rtol=0, atol=1e-4)


@pytest.fixture
def ray() -> Iterator[None]:
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    yield
    ray.shutdown()


def test_a_run_learns_and_a_killed_engine_is_replaced(ray: None, root: Path) -> None:
    def kill() -> None:
        folder = root / "runs" / "rl-001"
        while not (folder / record.METRICS).is_file() or len(steps_of(folder)) < 3:
            time.sleep(0.05)
        (pid,) = engines()
        os.kill(pid, signal.SIGKILL)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    folder = launch.train(read(root), "rl", ON_VLLM, resume=False)
    killer.join()
    before, after = measured_of(folder)
    steps = steps_of(folder)
    assert [step["step"] for step in steps] == list(range(1, 9))
    assert after["held_out_reward"] > before["held_out_reward"] + 0.2
    assert max(step["gap"] for step in steps) < 1.001
    events = [event["text"] for event in lines.read(folder / record.EVENTS)[0]]
    assert sum("engine 0 is lost, and replaced" in text for text in events) == 1
    undisturbed = launch.train(read(root), "rl", ON_VLLM, resume=False)
    for key in ("reward", "digest"):
        assert [step[key] for step in steps_of(undisturbed)] == [step[key] for step in steps]
    assert [s["loss"] for s in steps_of(undisturbed)] == pytest.approx([s["loss"] for s in steps], abs=1e-6)


def test_it_draws_ahead_of_a_step_that_learns(ray: None, root: Path) -> None:
    steps = steps_of(launch.train(read(root), "rl", AHEAD, resume=False))
    assert [step["step"] for step in steps] == list(range(1, 9))
    assert max(step["gap"] for step in steps) < 1.001
    assert max(step["reward"] for step in steps[4:]) > steps[0]["reward"] + 0.1
    assert all(step["overlapped"] > 0 for step in steps[1:])


def test_an_adapter_is_drawn_with_as_it_is_learnt(ray: None, root: Path) -> None:
    lora = {"adapter": "lora", "lora_rank": "8", "learning_rate": "3e-2", "kl": "1e-4", "steps": "4"}
    steps = steps_of(launch.train(read(root), "rl", {**ON_VLLM, **lora}, resume=False))
    assert steps[-1]["kl"] > 1e-3, "it has moved"
    assert max(step["gap"] for step in steps) < 1.001


def engines() -> list[int]:
    """The processes of Ray's actors that hold an engine."""
    listed = subprocess.run(["ps", "-eo", "pid,args"], capture_output=True, text=True, check=True).stdout
    return [int(line.split()[0]) for line in listed.splitlines() if "ray::_Actor" in line]
