"""The contract and consistency verifiers name every line that a port may not have, and pass honest ports."""

import ast
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import ptw
from ptw.ports.port import load_port
from ptw.verify import judge, subject
from ptw.verify.judge import Verifier
from ptw.verify.port import trace
from ptw.workspace import rooms
from tests.verify.conftest import Answered

ROOT = rooms.stock("verifiers")
BY_TEXT = {name: rooms.load(ROOT / f"{name}.py") for name in ("contract", "consistency")}
STOCK = sorted(rooms.files(None, "models"))
TOP = "\n\nclass Attention(nn.Module):"
FORWARD = "        hidden_BTD = self.embed_tokens(ids_BT)\n"
IMPORT = "from typing import Any\n"

# what stands in llama's text -> what a wrong port has there, and what is said about it
NAMED = {
    "transformers": (IMPORT, f"{IMPORT}from transformers import LlamaForCausalLM\n", "from transformers"),
    "importlib": (IMPORT, f"{IMPORT}import importlib\n", "import importlib"),
    "sys by way of typing": (IMPORT, f"{IMPORT}from typing import sys\n", "from typing import sys"),
    "torch by way of ptw": (
        IMPORT,
        f"{IMPORT}from ptw.nn.norm import torch\n",
        "from ptw.nn.norm import torch",
    ),
    "the loader": (IMPORT, f"{IMPORT}from ptw.ports.load import load\n", "from ptw.ports.load"),
    "the gate": (IMPORT, f"{IMPORT}from ptw.verify import reference\n", "from ptw.verify"),
    "an import later": (FORWARD, f"        import os\n{FORWARD}", "inside a block"),
    "another name": (
        "from torch import Tensor, nn",
        "from torch import Tensor, nn as n",
        "under another name",
    ),
    "eval": (FORWARD, f'        eval("1")\n{FORWARD}', "eval"),
    "open": (FORWARD, f'        open("/proc/self/environ")\n{FORWARD}', "open"),
    "getattr": (FORWARD, f'        getattr(self, "config")\n{FORWARD}', "getattr"),
    "dunder": (FORWARD, f"        self.__class__\n{FORWARD}", "__class__"),
    "frames": (FORWARD, f"        (i for i in ()).gi_frame\n{FORWARD}", "gi_frame"),
    "torch.load": (FORWARD, f'        torch.load("x")\n{FORWARD}', "torch.load"),
    "torch.ops": (FORWARD, f"        torch.ops.aten.add(ids_BT, ids_BT)\n{FORWARD}", "torch.ops"),
    "torch handed on": (FORWARD, f"        module = nn\n{FORWARD}", "handed on"),
    "hooks": (FORWARD, f"        self.register_forward_hook(print)\n{FORWARD}", "register_forward_hook"),
    "pointers": (FORWARD, f"        ids_BT.data_ptr()\n{FORWARD}", "data_ptr"),
    "numpy": (FORWARD, f"        ids_BT.numpy()\n{FORWARD}", "numpy"),
    "another's private": (FORWARD, f"        layout._masks\n{FORWARD}", "_masks"),
    "a global cache": (TOP, f"\nSEEN = {{}}{TOP}", "module level"),
    "code on import": (TOP, f'\nprint("hello"){TOP}', "module level"),
    "a decorator": ("    def head(self)", "    @torch.no_grad()\n    def head(self)", "decorator"),
    "a default": ("cache: KVCache | None = None", "cache: KVCache | None = KVCache(1)", "default"),
    "a call operator": ("    def head(self)", "    def __call__(self)", "__call__"),
    "a metaclass": ("class MLP(nn.Module)", "class MLP(nn.Module, metaclass=type)", "bases"),
    "answers": (FORWARD, f"        answer = [{', '.join(map(str, range(40)))}]\n{FORWARD}", "written out"),
    "encoded answers": (FORWARD, f"        answer = {10**40}\n{FORWARD}", "written out"),
    "no head": ("    def head(self)", "    def heads(self)", "Model has no head"),
    "a config that changes": ("@dataclass(frozen=True)", "@dataclass", "frozen"),
}
CONSISTENT = {
    "try": (FORWARD, f"        try:\n    {FORWARD}        except Exception:\n            pass\n", "`try`"),
    "autocast": (FORWARD, f'        with torch.autocast("cpu"):\n    {FORWARD}', "`with`"),
    "global": (FORWARD, f"        global LAST\n{FORWARD}", "`global`"),
    "state": (FORWARD, f"        self.seen = ids_BT\n{FORWARD}", "outside of __init__"),
    "state in a list": (FORWARD, f"        self.seen.append(ids_BT)\n{FORWARD}", "is changed, but not made"),
    "state in a table": (FORWARD, f"        self.seen[0] = ids_BT\n{FORWARD}", "is changed, but not made"),
    "state in a parameter": (
        FORWARD,
        f"        self.norm.weight.add_(1)\n{FORWARD}",
        "is changed, but not made",
    ),
    "patching": (FORWARD, f"        nn.Linear.forward = Block.forward\n{FORWARD}", "outside of __init__"),
    "patching ptw": (FORWARD, f'        ACTIVATIONS["silu"] = self.norm\n{FORWARD}', "is changed"),
    "dtype": (
        FORWARD,
        f"        if self.norm.weight.dtype == torch.float64:\n    {FORWARD}{FORWARD}",
        "branch on",
    ),
    "dtype by arithmetic": (
        FORWARD,
        f"        x = 2 * (ids_BT.dtype == torch.int64)\n{FORWARD}",
        "every dtype",
    ),
    "dtype by table": (FORWARD, f"        x = {{torch.float64: 1}}[ids_BT.dtype]\n{FORWARD}", "every dtype"),
    "dtype by name": (
        FORWARD,
        f"        kind = ids_BT.dtype\n        x = kind == kind\n{FORWARD}",
        "every dtype",
    ),
    "dtype as text": (FORWARD, f"        x = str(ids_BT.dtype)\n{FORWARD}", "every dtype"),
    "precision": (FORWARD, f"        x = torch.finfo(ids_BT.dtype).bits\n{FORWARD}", "finfo"),
    "device": (FORWARD, f"        x = ids_BT.device.type\n{FORWARD}", "every dtype"),
    "training": (FORWARD, f"        if self.training:\n    {FORWARD}{FORWARD}", "every dtype"),
    "shape": (FORWARD, f"        if ids_BT.shape[1] > 100:\n    {FORWARD}{FORWARD}", "branch on"),
    "length": (FORWARD, f"        x = 1 if len(ids_BT) == 3 else 2\n{FORWARD}", "branch on"),
    "values": (FORWARD, f"        x = ids_BT.sum() == 17 and ids_BT\n{FORWARD}", "branch on"),
    "the layout": (FORWARD, f'        assert layout.backend == "dense"\n{FORWARD}', "branch on"),
    "a lambda": (FORWARD, f"        x = lambda y: 1 if y.sum() else 2\n{FORWARD}", "branch on"),
}


def said(name: str, text: str) -> list[str]:
    return [text for _, text in BY_TEXT[name].violations(text.encode())]


@pytest.mark.parametrize("verifier", BY_TEXT)
@pytest.mark.parametrize("port", STOCK)
def test_stock_ports_keep_the_contract(verifier: str, port: str, text_of: Callable[[str], str]) -> None:
    assert not said(verifier, text_of(port))


@pytest.mark.parametrize(
    ("verifier", "name"),
    [("contract", name) for name in NAMED] + [("consistency", name) for name in CONSISTENT],
)
def test_what_a_port_may_not_is_named(verifier: str, name: str, text_of: Callable[[str], str]) -> None:
    old, new, words = {**NAMED, **CONSISTENT}[name]
    text = text_of("llama")
    assert old in text
    found = said(verifier, text.replace(old, new, 1))
    assert any(words in one for one in found), found


def test_what_modules_of_ptw_import_is_not_theirs_to_give() -> None:
    package = Path(ptw.__file__).parent
    files = [*(package / "nn").glob("*.py"), package / "ports" / "weights.py"]
    for file in files:
        module = ".".join(("ptw", *file.relative_to(package).with_suffix("").parts))
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                for alias in node.names:
                    if isinstance(node, ast.Import) or not (node.module or "").startswith("ptw."):
                        name = alias.asname or alias.name.partition(".")[0]
                        text = f"from {module} import {name}\n"
                        assert any("a port imports" in one for one in said("contract", text)), text


LOOKED = "        return self.norm(hidden_BTD)"
RAN = {
    "right in fp64 only, by its digits": (
        f"        fine = hidden_BTD.new_full((), 1.0) + 1e-10\n"
        f"        for _ in range(int((fine > 1.0).sum())):\n"
        f"            hidden_BTD = hidden_BTD + 0.0\n{LOOKED}",
        "lines",
    ),
    "another answer the second time": (
        "        self.asked.append(0)\n        return self.norm(hidden_BTD) * (1 + 1e-9 * len(self.asked))",
        "again",
    ),
    "another answer in training": (
        "        return self.norm(hidden_BTD) * (1 + 1e-9 * self.training)",
        "training",
    ),
    "right for the lengths of practice only": (
        "        known = torch.tensor([1, 2, 7, 37, 257])\n"
        "        return self.norm(hidden_BTD) * (2 - (known == ids_BT.shape[1]).any().long())",
        "unseen",
    ),
}


@pytest.mark.parametrize("name", ["honest", *RAN])
def test_a_port_computes_one_way(
    name: str,
    answered: dict[str, Answered],
    stock_verifiers: dict[str, Verifier],
    text_of: Callable[[str], str],
    write_port: Callable[[str, str], Path],
) -> None:
    """What the rules did not find in the text shows when it runs."""
    verifier, one = stock_verifiers["consistency"], answered["llama"]
    text = text_of("llama")
    assert LOOKED in text
    text = text.replace(IMPORT, f"{IMPORT}import torch\n")
    text = text.replace("self.rotary_emb = ", "self.asked = []\n        self.rotary_emb = ")
    new, metric = RAN.get(name, (LOOKED, ""))
    root = write_port("llama", text.replace(LOOKED, new))
    port = load_port(root / "models" / "llama.py")
    case = one.case("plain")
    given = one.family.given / case
    ours = trace.trace(port, root, subject.probes({"consistency": verifier.file}), given, root)
    ours["/source"] = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    values = verifier.measure(
        judge.of_verifier(ours, "consistency"), judge.of_verifier(one.theirs(case), "consistency")
    )
    wrong = {key for key, value in values.items() if not value <= verifier.limits[key]} - {"violations"}
    assert metric in wrong if metric else not wrong, values
