"""What does a port say to each case? Runs apart, where the reference is not (see `sandbox`).

Knows the port by what every port has: `Config.from_hf`, `Model`, `weights`.
"""

from __future__ import annotations

import json
import os
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ptw.errors import PtwError
from ptw.nn.cache import KVCache
from ptw.nn.decode import generate
from ptw.nn.layout import Layout
from ptw.ports.export import export
from ptw.ports.load import load
from ptw.ports.port import Port, find_port
from ptw.verify.exact import exact
from ptw.verify.nudge import nudge

Tensors = dict[str, Tensor]
BACKENDS = ("dense", "documents")  # flex is fp64 on a CPU only uncompiled, and slow so
TRACEBACK_LINES = 8


def main(folders: dict[str, str]) -> None:
    """Trace the one port of folders["workspace"] on every case of folders["cases"]."""
    root, cases, output = Path(folders["workspace"]), Path(folders["cases"]), Path(folders["output"])
    (file,) = (root / "models").glob("*.py")
    port = find_port(root, file.stem)
    assert port is not None
    for given in sorted(cases.iterdir()):
        target = output / given.name
        target.mkdir()
        try:
            _trace_case(port, root, given, target)
        except Exception:  # said in the report as this case's failure
            lines = traceback.format_exc().strip().splitlines()
            (target / "error").write_text("\n".join(lines[-TRACEBACK_LINES:]))
    # threads that a port left behind must not keep the process
    os._exit(0)


def _trace_case(port: Port, root: Path, given: Path, target: Path) -> None:
    values = json.loads((given / "checkpoint" / "config.json").read_text())
    try:
        port.Config.from_hf(values)
    except PtwError as refusal:
        (target / "refused").write_text(str(refusal))
        return
    found = trace(port, root, given)
    save_file(found, target / "trace.safetensors")
    export(load(given / "checkpoint", root, port=port.model_type), target / "export")


def trace(port: Port, root: Path, given: Path) -> Tensors:
    """The reference's tensors under the same names, and the packed forward by every backend:
    packed.BACKEND.logits, and changed.BACKEND.logits with one document's tokens replaced; both (T, V)."""
    inputs = load_file(given / "inputs.safetensors")
    with exact(), torch.no_grad():
        model = load(given / "checkpoint", root, port=port.model_type, dtype=torch.float64).module.eval()
        lengths = inputs["lengths"].tolist()
        documents = inputs["ids"].split(lengths)
        found = {"logits": torch.cat([_alone(model, document) for document in documents])}
        for backend in BACKENDS:
            found[f"packed.{backend}.logits"] = _packed(model, inputs["ids"], inputs, backend)
            found[f"changed.{backend}.logits"] = _packed(model, inputs["changed"], inputs, backend)
        found |= _decoded(model, documents, inputs)
        if len(inputs["nudged"]):
            state = load_file(given / "checkpoint" / "model.safetensors")
            found |= _nudged(port, model, state, inputs["nudged"])
    return {name: tensor.contiguous() for name, tensor in found.items()}


def _logits(model: Any, ids_BT: Tensor, layout: Layout, cache: KVCache | None = None) -> Tensor:
    return cast(Tensor, model.head().logits(model(ids_BT, layout, cache)))


def _alone(model: nn.Module, ids: Tensor) -> Tensor:
    return _logits(model, ids[None], Layout.of_documents([[len(ids)]]))[0]


def _packed(model: nn.Module, ids: Tensor, inputs: Tensors, backend: str) -> Tensor:
    """Documents side by side in rows, the shorter row padded; logits in the documents' order."""
    lengths, row = inputs["lengths"].tolist(), inputs["row"].tolist()
    rows: list[list[int]] = [[] for _ in range(max(row) + 1)]
    for length, number in zip(lengths, row, strict=True):
        rows[number].append(length)
    layout = Layout.of_documents(rows, backend=cast(Any, backend))
    ids_BT = torch.zeros_like(layout.positions_BT)
    real_BT = layout.documents_BT >= 0
    ids_BT[real_BT] = ids
    return _logits(model, ids_BT, layout)[real_BT]


def _decoded(model: Any, documents: Sequence[Tensor], inputs: Tensors) -> Tensors:
    """Documents of uneven lengths side by side through one cache."""
    chosen = [documents[place] for place in inputs["decode_document"].tolist()]
    held = inputs["decode_prefill"].tolist()
    prompts = [document[:count] for document, count in zip(chosen, held, strict=True)]
    cache = KVCache(model.config.num_hidden_layers)
    ids_BT = nn.utils.rnn.pad_sequence(prompts, batch_first=True)
    logits_BTV = _logits(model, ids_BT, cache.step(held), cache)
    steps = [logits_BTV[torch.arange(len(held)), torch.tensor(held) - 1]]
    for step in range(int(inputs["decode_steps"])):
        ids_B = torch.stack([document[at + step] for document, at in zip(chosen, held, strict=True)])
        steps.append(_logits(model, ids_B[:, None], cache.step([1] * len(held)), cache)[:, 0])
    tokens = generate(model, [prompt.tolist() for prompt in prompts], int(inputs["new_tokens"]))
    return {"decode.logits": torch.stack(steps, dim=1), "generated": torch.tensor(tokens)}


def _nudged(port: Port, model: Any, state: Tensors, ids: Tensor) -> Tensors:
    """The last token's logits with one tensor of the checkpoint changed, for each in turn."""
    operators = {name: operator for operator in port.weights(model.config) for name in operator.theirs}
    parameters = dict(model.named_parameters(remove_duplicate=False)) | dict(model.named_buffers())
    found = {}
    for key, tensor in state.items():
        operator = operators[key]
        for value in (nudge(key, tensor), tensor.double()):
            theirs = [value if name == key else state[name].double() for name in operator.theirs]
            for name, ours in zip(operator.ours, operator.from_hf(theirs), strict=True):
                parameters[name].data.copy_(ours)
            if f"nudged.{key}" not in found:
                found[f"nudged.{key}"] = _alone(model, ids)[-1]
    return found
