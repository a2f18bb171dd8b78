"""What only a CUDA device computes is what a CPU computes: `make test-gpu`."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from ptw.nn.attention import attend
from ptw.nn.head import Form, linear_cross_entropy
from ptw.nn.layout import Layout
from ptw.ports.compiled import compile_blocks
from ptw.ports.load import create
from ptw.verify.verify import Request, verify
from tests.train.conftest import make_workspace, planned, steps_of, trained

DEVICE = "cuda"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.filterwarnings("ignore"),  # of torch's compiler, and of drivers
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]
LENGTHS = [[300, 1, 83], [200, 184]]
SHAPE = {
    "model_type": "qwen3",
    "vocab_size": 512,
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "max_position_embeddings": 512,
}


@pytest.mark.parametrize(
    "more",
    [{}, {"window": 64}, {"sinks_N": torch.linspace(-1, 3, 4)}, {"cap": 5.0}, {"window": 64, "cap": 5.0}],
)
def test_compiled_flex_attention_keeps_documents_apart(more: dict[str, object]) -> None:
    """To the values and gradients of each document alone, on the CPU in fp64."""
    draw = torch.Generator().manual_seed(0)
    given = [torch.randn(2, 384, heads, 32, generator=draw) for heads in (4, 2, 2)]
    found = [
        attended(given, more, device, dtype) for device, dtype in (("cpu", torch.float64), (DEVICE, None))
    ]
    for theirs, ours in zip(*found, strict=True):
        torch.testing.assert_close(ours.cpu().double(), theirs.double(), rtol=1e-3, atol=1e-4)


def attended(
    given: list[Tensor], more: dict[str, object], device: str, dtype: torch.dtype | None
) -> list[Tensor]:
    """What attention gives, and the gradients of queries, keys and values."""
    inputs = [tensor.to(device, dtype or tensor.dtype, copy=True).requires_grad_() for tensor in given]
    more = {key: value.to(inputs[0]) if isinstance(value, Tensor) else value for key, value in more.items()}
    layout = Layout.of_documents(LENGTHS, 384, device=device)
    out = attend(*inputs, layout, scale=32**-0.5, **more)  # type: ignore[arg-type]
    weights = torch.linspace(-1, 1, out.numel()).view(out.shape).to(out)
    (out * weights).sum().backward()
    return [out.detach(), *(tensor.grad for tensor in inputs if tensor.grad is not None)]


@pytest.mark.parametrize("form", [Form(), Form(label_smoothing=0.1, z_loss=1e-4), Form(cap=30.0)])
@pytest.mark.parametrize(("dtype", "limit"), [(torch.float32, 1e-4), (torch.bfloat16, 2e-2)])
def test_the_heads_loss_is_that_of_a_cpu(form: Form, dtype: torch.dtype, limit: float) -> None:
    """Whichever kernel computes it, Liger's where it is installed."""
    draw = torch.Generator().manual_seed(0)
    hidden, weight = torch.randn(256, 64, generator=draw), torch.randn(1024, 64, generator=draw) / 8
    targets = torch.randint(0, 1000, (256,), generator=draw)
    found = []
    for device, kind in (("cpu", torch.float64), (DEVICE, dtype)):
        own = [tensor.to(dtype).to(device, kind).requires_grad_() for tensor in (hidden, weight)]
        loss = linear_cross_entropy(*own, targets.to(device), 1000, form)
        loss.backward()
        found.append([loss.detach(), *(tensor.grad for tensor in own if tensor.grad is not None)])
    for theirs, ours in zip(*found, strict=True):
        difference = (ours.double().cpu() - theirs).norm() / theirs.norm()
        assert difference <= limit


def test_compiled_blocks_learn_as_plain_ones() -> None:
    plain, compiled = (create(SHAPE, None, seed=0, device=DEVICE).module for _ in range(2))
    compile_blocks(compiled)
    ids_BT = torch.randint(0, 512, (2, 384), generator=torch.Generator().manual_seed(0)).to(DEVICE)
    for model in (plain, compiled):
        hidden_BTD = model(ids_BT, Layout.of_documents(LENGTHS, 384, device=DEVICE))
        model.head().loss(hidden_BTD, ids_BT.roll(-1, 1)).backward()
    for (name, one), (_, other) in zip(plain.named_parameters(), compiled.named_parameters(), strict=True):
        assert one.grad is not None, name
        assert other.grad is not None, name
        assert (one.grad - other.grad).norm() <= 1e-3 * one.grad.norm(), name


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_run_learns_and_goes_on(tmp_path: Path, precision: str) -> None:
    root = make_workspace(tmp_path / "ws")
    steps = steps_of(trained(planned(root, precision=precision)).folder)
    assert steps[-1]["loss"] < steps[0]["loss"] - 0.1
    assert steps[-1]["reserved_bytes"] >= steps[-1]["memory_bytes"] > 0


def test_the_acceptance_passes_here(repository: Path) -> None:
    """Its drawn cases on FlexAttention too, and no slower than Hugging Face's class on this device."""
    report = verify(repository, Request(("llama",), level="acceptance"))
    assert report.passed, report.ports
