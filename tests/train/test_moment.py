"""`RUN@STEP` is the model that the run would have saved at that step, to the bit."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from ptw.errors import PtwError
from ptw.evals.answer import answer
from ptw.evals.recommend import recommend
from ptw.runs import record
from ptw.train import checkpoint
from ptw.train.facts import digests_of
from ptw.train.moment import export, open_at
from ptw.train.plan import Plan
from ptw.workspace.manifest import read
from tests.train.conftest import make_workspace, planned, together, trained
from tests.train.test_adapted import LORA, with_base

STEP = 4  # of six, with a checkpoint every two

# the recipe saves after this step, too, and puts aside what was saved
SAVES = f"""
        if run.steps_done == {STEP} and batch.first:
            run.save(model)
            if run.group.first:
                os.makedirs(run.plan.folder / "saved")
                for part in ("model", "adapter"):
                    if (run.plan.folder / part).exists():
                        os.rename(run.plan.folder / part, run.plan.folder / "saved" / part)
            run.group.wait()
"""


def saving(root: Path) -> Path:
    recipe = root / "recipes" / "slow.py"
    recipe.write_text(recipe.read_text().replace("        loss = run", f"{SAVES}        loss = run"))
    return root


def same_files(ours: Path, theirs: Path) -> bool:
    names = {path.name for path in ours.iterdir()}
    assert names == {path.name for path in theirs.iterdir()}
    return all((ours / name).read_bytes() == (theirs / name).read_bytes() for name in names)


def is_what_was_saved(found: record.RunRecord, part: str = "model") -> bool:
    """Also other than what was saved in the end."""
    workspace = read(found.folder.parents[1])
    ours = export(workspace, f"{found.name}@{STEP}", found.folder / f"at-{part}", adapter=part == "adapter")
    assert not same_files(ours, found.folder / part)
    return same_files(ours, found.folder / "saved" / part)


SETTINGS = {"steps": 6, "checkpoint_every": 2, "keep_checkpoints": 9, "rows": 2}


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> record.RunRecord:
    root = saving(make_workspace(tmp_path_factory.mktemp("moment") / "ws"))
    return trained(planned(root, "next", **SETTINGS))


def test_the_model_at_a_step_is_what_would_have_been_saved(found: record.RunRecord) -> None:
    assert is_what_was_saved(found)
    last = export(read(found.folder.parents[1]), "next@6", found.folder / "last")
    assert same_files(last, found.folder / "model")


@pytest.mark.slow
def test_it_is_so_where_two_workers_dealt_the_heads(tmp_path: Path) -> None:
    root = saving(make_workspace(tmp_path / "ws", tied=False))
    toml = root / "workspace.toml"
    toml.write_text(toml.read_text().replace("workers = 2", "workers = 2\ntensor = 2"))
    plan = planned(root, "next-on-two", **SETTINGS)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert is_what_was_saved(record.read(plan.run_folder()))


def test_it_is_so_of_a_base_and_its_adapter(tmp_path: Path) -> None:
    """Merged, and rounded to the base's own dtype."""
    root = saving(with_base(tmp_path / "ws", recipe="slow"))
    toml = root / "workspace.toml"
    toml.write_text(toml.read_text().replace('"sft"', '"slow"'))
    settings = {**SETTINGS, **LORA, "precision": "bf16", "window": 128}
    found = trained(planned(root, "chat", **settings))
    assert is_what_was_saved(found)
    assert is_what_was_saved(found, "adapter")
    record.change(found.folder, digests=digests_of(Plan.from_json(found.plan)))
    base = root / "base" / "model.safetensors"
    base.write_bytes(base.read_bytes()[:-4] + b"abcd")
    with pytest.raises(PtwError, match=f"model tiny has changed since {found.name} began"):
        export(read(root), f"{found.name}@{STEP}", tmp_path / "late")
    assert not (tmp_path / "late").exists()


def test_the_model_at_a_step_is_evaluated_and_asked(found: record.RunRecord) -> None:
    workspace = read(found.folder.parents[1])
    opened = open_at(workspace, f"{found.name}@{STEP}")
    assert opened.name == "next-001@4"
    saved = load_file(found.folder / "saved" / "model" / "model.safetensors")
    assert torch.equal(opened.loaded.module.get_parameter("model.norm.weight"), saved["model.norm.weight"])
    views = workspace.datasets["views"]
    then, last = (recommend(workspace, [one], views) for one in (opened, open_at(workspace, found.name)))
    assert list(then.scorers[0].ranks_N) != list(last.scorers[0].ranks_N)
    assert isinstance(answer(opened, "item3", 4, 0.0), str)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("next-001@5", "run next-001 has no checkpoint of step 5; there are: 2, 4, 6$"),
        ("next@x", "no checkpoint of step x; there are: 2, 4, 6$"),
        ("next@", "no checkpoint of step ; there"),
        ("other@4", "no run named 'other'; there are: next-001"),
    ],
)
def test_a_step_that_is_not_there_is_told(found: record.RunRecord, name: str, words: str) -> None:
    with pytest.raises(PtwError, match=words):
        open_at(read(found.folder.parents[1]), name)


def test_what_cannot_be_exported_is_told(found: record.RunRecord, tmp_path: Path) -> None:
    workspace = read(found.folder.parents[1])
    with pytest.raises(PtwError, match="has no adapter"):
        export(workspace, "next@4", tmp_path / "adapter", adapter=True)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "file").touch()
    with pytest.raises(PtwError, match="there is something already"):
        export(workspace, "next@4", tmp_path / "there")
    data = next(checkpoint.complete(found.folder)[0].glob("*.distcp"))
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(PtwError, match=r"step-00000002: .*distcp has \d+ bytes of \d+; there are: 2, 4, 6"):
        export(workspace, "next@2", tmp_path / "cut")
    assert [path.name for path in tmp_path.iterdir()] == ["there"]
