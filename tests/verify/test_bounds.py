"""A window that is longer than every document that is tried shows in no output: it is seen as it is given."""

from pathlib import Path

import pytest
import torch

from ptw.errors import PtwError
from ptw.ports.port import load_port
from ptw.verify import judge
from ptw.verify.port.model import PortModel
from ptw.verify.reference.model import ReferenceModel
from ptw.workspace import rooms
from tests.verify.conftest import Answered

ROOT = Path(__file__).resolve().parents[2]
SCALE = "scale=self.head_dim**-0.5)"


START = "return self.model(ids_BT, layout, cache)"


def port(folder: Path, checkpoint: Path, before: str, after: str) -> PortModel:
    text = (ROOT / "models" / "llama.py").read_text()
    assert before in text
    file = folder / "models" / "llama.py"
    file.parent.mkdir(parents=True)
    file.write_text(text.replace(before, after))
    return PortModel(load_port(file), folder, checkpoint, torch.float64, True)


def test_a_window_of_its_own_is_none_of_the_configurations(
    answered: dict[str, Answered], tmp_path: Path
) -> None:
    family = answered["llama"].family
    checkpoint = family.given / answered["llama"].case("plain") / "checkpoint"
    ids = torch.arange(20)
    known = ReferenceModel(checkpoint, torch.float64, True).bounds(ids).tolist()
    assert port(tmp_path / "honest", checkpoint, SCALE, SCALE).bounds(ids).tolist() == []
    bounded = SCALE.replace(")", ", window=4096)")
    given = port(tmp_path / "bounded", checkpoint, SCALE, bounded).bounds(ids).tolist()
    assert given == [4096.0]
    assert not set(given) & set(known)
    assert {64.0, 3.0} <= set(known)


def test_a_bound_on_positions_shows_far_from_every_document(
    answered: dict[str, Answered], tmp_path: Path
) -> None:
    """However it comes to its number."""
    bounds = rooms.load(rooms.files(None, "verifiers")["bounds"])
    family = answered["llama"].family
    checkpoint = family.given / answered["llama"].case("plain") / "checkpoint"
    ids = torch.arange(9)
    theirs = ReferenceModel(checkpoint, torch.float64, True).far(ids, 20_000)
    honest = port(tmp_path / "honest", checkpoint, START, START).far(ids, 20_000)
    assert theirs.shape == honest.shape
    assert bounds._moved(honest, theirs) < 1e-12
    clamp = (
        "import dataclasses\n"
        "        most = self.config.hidden_size * self.config.vocab_size\n"
        "        near = layout.positions_BT.clamp(max=most)\n"
        "        layout = dataclasses.replace(layout, positions_BT=near)\n"
        f"        {START}"
    )
    clamped = port(tmp_path / "clamped", checkpoint, START, clamp).far(ids, 20_000)
    assert bounds._moved(clamped, theirs) > 1e-3


def test_where_the_reference_has_no_such_positions_nothing_is_asked(tmp_path: Path) -> None:
    """Of a RoPE that goes by the length of the document, and of a table of positions that ends."""
    bounds = rooms.load(rooms.files(None, "verifiers")["bounds"])
    inputs = {"nudged": torch.arange(9), "far": torch.tensor([20_000])}

    class Short:
        def bounds(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.tensor([64.0])

        def far(self, ids: torch.Tensor, start: int) -> torch.Tensor:
            return torch.empty(0)

    class Asked:
        def __init__(self, is_reference: bool) -> None:
            self.is_reference = is_reference

        def exact(self) -> Short:
            return Short()

    theirs, ours = (bounds.probe(Asked(one), inputs) for one in (True, False))
    assert set(theirs) == {"known"}
    assert set(ours) == {"given", "far"}
    ours["/source"] = torch.tensor(list(b"x = 1\n"), dtype=torch.uint8)
    told = {name.removeprefix("/"): tensor for name, tensor in ours.items()}
    assert bounds.measure(told, theirs)["positions"] == 0.0
    judge.compare_shapes({"bounds/far": torch.zeros(9, 4)}, {"bounds/known": theirs["known"]})
    with pytest.raises(PtwError, match="bounds/far"):
        judge.compare_shapes({"bounds/far": torch.zeros(0)}, {"bounds/far": torch.zeros(9, 4)})


def test_a_large_number_outside_of_config_is_seen_however_it_is_written() -> None:
    bounds = rooms.load(rooms.files(None, "verifiers")["bounds"])
    text = (ROOT / "models" / "llama.py").read_text()
    assert bounds.numbers(text.encode()) == ()
    clamped = "ids_BT = ids_BT.clamp(max={})\n        return self.model(ids_BT, layout, cache)"
    for number in ("4096", "2**12", "64 * 64", "CONTEXT", "-(-4096)", "1 << 12", "4e3"):
        changed = text.replace("return self.model(ids_BT, layout, cache)", clamped.format(number))
        changed = changed.replace("\n\n@dataclass", "\n\nCONTEXT = 4096\n\n\n@dataclass", 1)
        assert len(bounds.numbers(changed.encode())) == 1, number
    read = text.replace("hidden_size: int = 4096", "hidden_size: int = 8192")
    assert bounds.numbers(read.encode()) == ()
