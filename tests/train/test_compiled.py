"""What torch.compile makes of a model's blocks is the model, at every packing, and is made once."""

import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch._dynamo.utils import counters

from ptw.errors import PtwError
from ptw.train.plan import LOCAL
from tests.train.conftest import planned, steps_of, together, trained
from tests.train.test_adapted import LORA, with_base
from tests.train.test_adapted_dealt import dealt, placed

# torch's compiler looks at gradients, of which it hides the warning, and imports what warns of itself
pytestmark = [
    pytest.mark.filterwarnings("ignore:The .grad attribute:UserWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no g++")


@pytest.fixture
def fresh() -> Iterator[None]:
    """As in a process of its own."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def demand_equal(ours: Path, theirs: Path) -> None:
    for key, rel in (("loss", 1e-6), ("gradient_norm", 1e-5)):
        curves = [[line[key] for line in steps_of(folder)] for folder in (ours, theirs)]
        assert len(curves[1]) > 1
        assert curves[0] == pytest.approx(curves[1], rel=rel), key


@needs_compiler
@pytest.mark.slow
def test_a_compiled_run_gives_the_plain_curve_and_compiles_once(fresh: None, tmp_path: Path) -> None:
    """Rows of other documents at each step, blocks computed again, a ranking measured between steps."""
    root = with_base(tmp_path / "ws", recipe="pretrain")
    settings = {"steps": 6, "checkpoint_every": 100}
    plain = trained(planned(root, **settings))
    again = placed(planned(root, **settings, compile="true"), dataclasses.replace(LOCAL, recompute=True))
    trained(again)
    demand_equal(again.run_folder(), plain.folder)
    # up to attention's projections, up to attention, its last projection, and the rest of the block
    assert counters["stats"]["unique_graphs"] == 4


@needs_compiler
@pytest.mark.slow
def test_an_adapter_is_compiled_and_a_rest_of_rows_is_one_more_shape(fresh: None, tmp_path: Path) -> None:
    root = with_base(tmp_path / "ws")
    settings = LORA | {"rows": 5, "rows_at_once": 3}
    plain = trained(planned(root, "chat", **settings))
    demand_equal(trained(planned(root, "chat", **settings, compile="true")).folder, plain.folder)
    # into the first block comes what has no gradient: all of its graphs but the last projection's are others
    assert counters["stats"]["unique_graphs"] == 2 * (4 + 3)


@needs_compiler
@pytest.mark.slow
def test_two_workers_compile_what_one_does_not(tmp_path: Path) -> None:
    root = with_base(tmp_path / "ws")
    plain = trained(planned(root, "chat"))
    plan = dealt(planned(root, "chat", compile="true"))
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    demand_equal(plan.run_folder(), plain.folder)


def test_without_a_c_compiler_it_is_refused(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(PtwError, match="needs a C\\+\\+ compiler on a CPU, and there is no no-such-compiler"):
        trained(planned(root, compile="true"))


@needs_compiler
def test_what_torch_compile_cannot_take_is_refused(tmp_path: Path) -> None:
    root = with_base(tmp_path / "ws", port="hf")
    with pytest.raises(PtwError, match="compile = true beside adapter = 'qlora'"):
        trained(planned(root, "chat", compile="true", adapter="qlora"))
    with pytest.raises(PtwError, match="compile = true: model tiny has no port"):
        trained(planned(root, "chat", compile="true"))
