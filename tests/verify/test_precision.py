"""Gradients and roundings: wrong ports that no other verifier rejects, and honest ones that all pass."""

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from ptw.ports.port import load_port
from ptw.verify import cases, judge, subject
from ptw.verify.cases import Reference
from ptw.verify.judge import Verifier
from ptw.verify.port import trace
from tests.verify.conftest import ROOT, VERIFIERS, Answered

ASKED = ("logits", "packing", "decode", "consistency", "contract", "gradients", "precision")
CASES = {"llama": "plain", "gemma3_text": "odd-sizes", "qwen3_moe": "plain", "gpt_oss": "plain"}
NORM = """

class OwnNorm(nn.Module):
    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, hidden: Tensor) -> Tensor:
        wide = hidden.float()
        return {}
"""
ROPE = """

class OwnRope(Rope):
    def forward(self, hidden_BTD: Tensor, layout: Layout) -> Rotation:
        frequencies, factor = self.config.frequencies(0)
        angles = {}
        angles = torch.cat((angles, angles), dim=-1)[:, :, None]
        cos, sin = angles.cos() * factor, angles.sin() * factor
        return Rotation(cos.to(hidden_BTD.dtype), sin.to(hidden_BTD.dtype))
"""
HEAD = """

class OwnHead(Head):
    def loss(self, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
        {}
"""
EMBEDDING = """

class OwnEmbedding(nn.Embedding):
    def __init__(self, rows: int, width: int, padding_id: int | None, scale: float) -> None:
        super().__init__(rows, width, padding_id)
        self.scale = scale

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) * {}
"""
SCALED = "torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)"
QUERY = "rotate(self.q_proj(hidden_BTD).view(heads))"
ROUTED = "functional.linear(hidden_TD, self.weight)"
BIASED = "functional.linear(hidden_TD, self.weight, self.bias)"


@dataclass(frozen=True)
class Edit:
    """A port, texts in it and what stands there instead, and a class that it defines itself."""

    port: str
    texts: tuple[tuple[str, str], ...] = ()
    own: str = ""

    def of(self, text: str) -> str:
        for old, new in self.texts:
            assert old in text, f"the port no longer says {old!r}: say the mistake anew"
            text = text.replace(old, new)
        text = text.replace("\n\nclass Attention(", f"{self.own}\n\nclass Attention(", 1)
        return text if "import torch\n" in text else text.replace("from torch", "import torch\nfrom torch", 1)


def norm(value: str, port: str = "llama") -> Edit:
    name = "RMSNorm" if port == "llama" else "CentredRMSNorm"
    own = NORM.format(value).replace("torch.ones", "torch.ones" if port == "llama" else "torch.zeros")
    return Edit(port, ((f" = {name}(", " = OwnNorm("),), own)


def rope(angles: str) -> Edit:
    return Edit("llama", ((" = Rope(", " = OwnRope("),), ROPE.format(angles))


def head(*lines: str) -> Edit:
    imported = ("import Head, padded_rows", "import Head, linear_cross_entropy, padded_rows")
    own = HEAD.format("\n        ".join(lines))
    return Edit("llama", (("return Head(", "return OwnHead("), imported), own)


def embedding(scale: str) -> Edit:
    return Edit("gemma3_text", ((" = ScaledEmbedding(", " = OwnEmbedding("),), EMBEDDING.format(scale))


POSITIONS = "layout.positions_BT[..., None].float()"
LEARNT = "learnt_BT = targets_BT != -100"
# name: what is wrong, and the verifier and metrics that say so
WRONG = {
    "queries detached": (Edit("llama", ((QUERY, f"{QUERY}.detach()"),)), "gradients", {"relative"}),
    "norm's spread detached": (
        norm(f"self.weight * (wide * {SCALED.replace('wide.pow', 'wide.detach().pow')}).to(hidden.dtype)"),
        "gradients",
        {"relative"},
    ),
    "router detached": (Edit("qwen3_moe", ((ROUTED, f"{ROUTED}.detach()"),)), "gradients", {"relative"}),
    "router's bias detached": (
        Edit("gpt_oss", ((BIASED, BIASED.replace("self.bias", "self.bias.detach()")),)),
        "gradients",
        {"relative"},
    ),
    "loss over padded rows": (
        head(
            LEARNT,
            "rows = self.weight_VD.shape[0]",
            "return linear_cross_entropy(hidden_BTD[learnt_BT], self.weight_VD, targets_BT[learnt_BT], rows)",
        ),
        "gradients",
        {"relative", "loss", "padded"},
    ),
    "ignored targets learnt": (
        head(
            "hidden_MD, targets_M = hidden_BTD.flatten(0, 1), targets_BT.flatten().clamp(min=0)",
            "return linear_cross_entropy(hidden_MD, self.weight_VD, targets_M, self.vocabulary)",
        ),
        "gradients",
        {"relative", "loss"},
    ),
    "norm without upcast": (
        norm(f"self.weight * (hidden * {SCALED.replace('wide', 'hidden')})"),
        "precision",
        {"operations", "blocks"},
    ),
    "norm rounded before it is applied": (
        norm(f"self.weight * (hidden * {SCALED}.to(hidden.dtype))"),
        "precision",
        {"operations"},
    ),
    # one rounding more, one less: by its errors it is as good as the reference
    "norm's root rounded": (
        norm(f"(self.weight.float() * (wide * {SCALED}.to(hidden.dtype))).to(hidden.dtype)"),
        "precision",
        {"operations"},
    ),
    "norm's 1 + w in bf16": (
        norm(f"(wide * {SCALED} * (1.0 + self.weight)).to(hidden.dtype)", "gemma3_text"),
        "precision",
        {"operations"},
    ),
    "angles in bf16": (
        rope(f"{POSITIONS}.to(hidden_BTD.dtype) * frequencies.to(hidden_BTD.dtype)"),
        "precision",
        {"operations", "tables"},
    ),
    "frequencies rounded": (
        rope(f"{POSITIONS} * frequencies.to(hidden_BTD.dtype).float()"),
        "precision",
        {"tables"},
    ),
    "router's softmax in bf16": (
        Edit("qwen3_moe", (("softmax(dim=-1, dtype=torch.float32)", "softmax(dim=-1)"),)),
        "precision",
        {"operations"},
    ),
    "embedding's scale not rounded": (embedding("self.scale"), "precision", {"entering"}),
}
HONEST = {
    "norm by a root and a quotient": norm(
        "self.weight * (wide / (wide.square().mean(-1, keepdim=True) + self.eps).sqrt()).to(hidden.dtype)"
    ),
    "norm rounded later than it need be": norm(f"(self.weight.float() * (wide * {SCALED})).to(hidden.dtype)"),
    "angles by its own module": rope(f"{POSITIONS} * frequencies"),
    "loss in one piece": head(
        "logits = self.logits(hidden_BTD).float()",
        "right = logits.gather(-1, targets_BT.clamp(min=0)[..., None])[..., 0]",
        LEARNT,
        "return (logits.logsumexp(-1) - right)[learnt_BT].sum()",
    ),
    "embedding scaled by itself": embedding("torch.full((), self.scale, dtype=self.weight.dtype)"),
    "nothing changed: gpt_oss": Edit("gpt_oss"),
    "nothing changed: qwen3_moe": Edit("qwen3_moe"),
}


@pytest.fixture(scope="session")
def one_case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Answered]]:
    """A family's practice cases; kept with the repository's own."""
    cache, reference = cases.cache_folder(ROOT), Reference()

    @functools.cache
    def answered(port: str) -> Answered:
        (family,) = cases.draw([port], "practice", 0, tmp_path_factory.mktemp("cases"), cache, reference)
        return Answered(family, reference, cache / "tests")

    yield answered
    reference.close()


@pytest.fixture
def failing(
    one_case: Callable[[str], Answered],
    stock_verifiers: dict[str, Verifier],
    text_of: Callable[[str], str],
    write_port: Callable[[str, str], Path],
) -> Callable[[Edit], dict[str, float]]:
    """What a port is measured beyond the limits, and a word on each: {"precision.blocks": 1.1}."""

    def measure(edit: Edit) -> dict[str, float]:
        text = edit.of(text_of(edit.port))
        root = write_port(edit.port, text)
        port = load_port(root / "models" / f"{edit.port}.py")
        one = one_case(edit.port)
        name = one.case(CASES[edit.port])
        probes = subject.probes({verifier: VERIFIERS[verifier] for verifier in ASKED})
        ours = trace.trace(port, root, probes, one.family.given / name, root / "handed")
        ours["/source"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        theirs, found = one.theirs(name), {}
        for verifier in (stock_verifiers[name] for name in ASKED):
            said = judge.of_verifier(ours, verifier.name), judge.of_verifier(theirs, verifier.name)
            values = verifier.measure(*said)
            assert values, f"{verifier.name} measured nothing"
            wrong = {
                metric: value for metric, value in values.items() if not value <= verifier.limits[metric]
            }
            assert not wrong or verifier.explain is None or verifier.explain(*said)
            found |= {f"{verifier.name}.{metric}": value for metric, value in wrong.items()}
        return found

    return measure


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_port_is_rejected_by_this_verifier_only(
    name: str, failing: Callable[[Edit], dict[str, float]]
) -> None:
    edit, verifier, metrics = WRONG[name]
    found = failing(edit)
    # a wrong loss is wrong in fp32, too
    others = set(found) - {f"{verifier}.{metric}" for metric in metrics} - {"precision.loss"}
    assert {f"{verifier}.{metric}" for metric in metrics} <= set(found), found
    assert all(other.startswith(verifier) for other in others), found


@pytest.mark.parametrize("name", HONEST)
def test_an_honest_port_passes(name: str, failing: Callable[[Edit], dict[str, float]]) -> None:
    assert not failing(HONEST[name])


@pytest.mark.parametrize("name", ["gradients", "precision"])
def test_nan_is_no_agreement(
    name: str,
    one_case: Callable[[str], Answered],
    stock_verifiers: dict[str, Verifier],
) -> None:
    """The reference's own answers stand for a port's: right, and then one number of each is not one."""
    one, verifier = one_case("llama"), stock_verifiers[name]
    theirs = judge.of_verifier(one.theirs(one.case(CASES["llama"])), name)
    ours = {key.removeprefix("their_"): tensor for key, tensor in theirs.items()}
    ours["packed.dense-right"] = ours.get("logits.fp32", torch.zeros(1))
    right = verifier.measure(ours, theirs)
    assert right
    assert all(value <= verifier.limits[metric] for metric, value in right.items()), right
    looked_at = ("loss.fp32", "logits.bf16", "blocks.bf16", "packed.", "entering")
    starts = looked_at if name == "precision" else ("gradient.", "loss", "padded")
    for key in (key for key in ours if key.startswith(starts)):
        spoilt = ours[key].clone()
        # what is judged by its middle token is not moved by one
        spoilt.fill_(float("nan")) if key == "logits.bf16" else spoilt.view(-1)[:1].fill_(float("nan"))
        values = verifier.measure({**ours, key: spoilt}, theirs)
        assert any(not value <= verifier.limits[metric] for metric, value in values.items()), key
