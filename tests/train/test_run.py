"""One worker: the curve, what is written down, and what a resumed run does again."""

import dataclasses
import itertools
import json
import math
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from ptw.data.pack import PackedRow
from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.evals.rows import forward_of
from ptw.runs import lines, record
from ptw.runs.open import open_named
from ptw.train import count, facts, held_out, launch
from ptw.train.count import SLICE, Stopped, rows_of
from ptw.train.group import Group
from ptw.train.ledger import STARTS_IN_VAIN
from ptw.train.moment import export
from ptw.train.optimize import adamw, clip
from ptw.train.run import Run
from ptw.train.settings import TrainingSettings
from ptw.workspace.manifest import read
from tests.data.conftest import THINKING_TEMPLATE
from tests.train.conftest import (
    curve_of,
    declare,
    make_workspace,
    measured_of,
    planned,
    samples_of,
    steps_of,
    trained,
)


def stop_after(step: int, folder: Path) -> bool:
    return len(steps_of(folder)) + 1 >= step


def test_a_run_learns_and_writes_each_step_once(undisturbed: Path) -> None:
    steps = steps_of(undisturbed)
    assert [line["step"] for line in steps] == list(range(1, 31))
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert record.read(undisturbed).state == "done"
    assert {"loss", "tokens", "packing", "mfu", "digest", "learning_rate", "gradient_norm"} <= steps[0].keys()
    assert steps[0]["mfu"] is None  # nobody knows what this CPU could do
    assert all(0 <= line["feed_seconds"] <= line["seconds"] for line in steps)
    assert all(line["flops"] > 0 and line["memory_bytes"] > 50e6 for line in steps)
    assert len(list((undisturbed / "checkpoints").iterdir())) == 2
    assert not [
        path for path in undisturbed.rglob(".*") if path.suffix != ".lock" and path.name != ".metadata"
    ]


def test_an_epoch_has_each_sample_once(undisturbed: Path) -> None:
    rows = len((undisturbed.parents[1] / "data" / "views.jsonl").read_text().splitlines())
    seen = list(itertools.chain(*(samples for _, samples in sorted(samples_of(undisturbed).items()))))
    assert len(set(seen[:rows])) > 0.9 * rows  # an epoch ends within a step
    counts = [seen.count(sample) for sample in set(seen)]
    assert max(counts) - min(counts) <= 1


def test_a_run_on_a_mix_has_its_shares_and_goes_on_bit_for_bit(root: Path) -> None:
    whole = trained(planned(root, "mixed"))
    plan = planned(root, "mixed")
    assert trained(plan, lambda: stop_after(4, plan.run_folder())).state == "stopped"
    record.change(plan.run_folder(), state="running")
    assert trained(plan).state == "done"
    assert curve_of(plan.run_folder()) == curve_of(whole.folder)
    assert samples_of(plan.run_folder()) == samples_of(whole.folder)
    counts = Counter(name for names in samples_of(whole.folder).values() for name in names)
    texts = {name.split("#")[0]: count for name, count in counts.items() if "texts" in name}
    chats = {name: count for name, count in counts.items() if "chats" in name}
    # five texts are a quarter, so that they take longest to come twice
    assert set(texts.values()) == {2}
    assert len(texts) == 5
    assert set(chats.values()) == {2, 3}
    samples = sum(texts.values()) + sum(chats.values())
    assert abs(sum(texts.values()) - samples / 4) < 1
    events = lines.read(plan.run_folder() / record.EVENTS)[0]
    told = [event["text"] for event in events if "of the samples" in event["text"]]
    assert [text.split(",")[0] for text in told] == [
        "chats: 76.7% of the samples",
        "texts: 23.3% of the samples",
    ]
    assert open_named(read(root), whole.name).chats


def test_each_part_of_a_mix_is_measured_by_itself(root: Path) -> None:
    found = measured_of(trained(planned(root, "mixed", epochs=1)).folder)[0]
    chats = measured_of(trained(planned(root, "chat", steps=1, window=64, seed=0)).folder)[0]
    assert found["held_out_loss_chats"] == pytest.approx(chats["held_out_loss"], rel=1e-6)
    parts = sorted(found[f"held_out_loss_{part}"] for part in ("chats", "texts"))
    assert parts[0] < found["held_out_loss"] < parts[1]


@pytest.mark.parametrize("step", [1, 7, 10])
def test_a_stopped_run_goes_on_bit_for_bit(root: Path, undisturbed: Path, step: int) -> None:
    plan = planned(root)
    assert trained(plan, lambda: stop_after(step, plan.run_folder())).state == "stopped"
    assert len(steps_of(plan.run_folder())) == step
    record.change(plan.run_folder(), state="running")
    assert trained(plan).state == "done"
    assert curve_of(plan.run_folder()) == curve_of(undisturbed)
    assert samples_of(plan.run_folder()) == samples_of(undisturbed)


def test_a_run_that_is_stopped_twice_goes_on_bit_for_bit(root: Path, undisturbed: Path) -> None:
    plan = planned(root)
    for step in (4, 9):
        assert trained(plan, lambda at=step: stop_after(at, plan.run_folder())).state == "stopped"
        assert len(steps_of(plan.run_folder())) == step
        record.change(plan.run_folder(), state="running")
    assert trained(plan).state == "done"
    assert curve_of(plan.run_folder()) == curve_of(undisturbed)
    assert samples_of(plan.run_folder()) == samples_of(undisturbed)
    ours, theirs = (
        folder / record.MODEL / "model.safetensors" for folder in (plan.run_folder(), undisturbed)
    )
    assert ours.read_bytes() == theirs.read_bytes()


def test_what_was_written_after_the_checkpoint_is_cut(root: Path, undisturbed: Path) -> None:
    plan = planned(root)
    trained(plan, lambda: stop_after(12, plan.run_folder()))
    folder = plan.run_folder()
    newest = sorted((folder / "checkpoints").iterdir())[-1]
    (newest / "state.pt").write_bytes(b"half")  # corrupt: the one before is taken
    with (folder / record.METRICS).open("a") as file:
        file.write('{"kind": "train", "step": 13, "lo')
    record.change(folder, state="running")
    trained(plan)
    assert curve_of(folder) == curve_of(undisturbed)
    assert "skipped, state.pt has 4 bytes" in (folder / record.EVENTS).read_text()


def test_passes_do_not_change_the_curve(root: Path) -> None:
    plans = [
        planned(make_workspace(root / str(n), recipe="pretrain"), steps=4, rows_at_once=n) for n in (1, 4)
    ]
    one, four = ([line["loss"] for line in steps_of(trained(plan).folder)] for plan in plans)
    assert one == pytest.approx(four, rel=1e-6)


def test_packed_loss_is_the_sum_of_the_unpacked(root: Path) -> None:
    """Before step 1: what packing adds or loses would show here."""
    plan = planned(root)
    run = Run(plan, TrainingSettings(), Group(0, 1, torch.device("cpu")), lambda: False)
    model = run.model()
    entry = plan.datasets["views"]
    stream = Stream(plan.root, entry, run.tokenizer, window=64, seed=0, epochs=1)
    rows = list(stream)
    with torch.no_grad():
        packed = forward_of(rows, torch.device("cpu"))
        total = model.head().loss(model(packed.ids_BT, packed.layout), packed.targets_BT).item()
        alone = 0.0
        for row in rows:
            for end, length in zip(itertools.accumulate(row.lengths), row.lengths, strict=True):
                one = slice(end - length, end)
                single = type(row)(row.ids[one], row.targets[one], (length,), ())
                forward = forward_of([single], torch.device("cpu"))
                alone += model.head().loss(model(forward.ids_BT, forward.layout), forward.targets_BT).item()
    assert total == pytest.approx(alone, rel=1e-6)


def test_a_loss_that_is_no_number_names_step_and_samples(root: Path) -> None:
    (root / "recipes" / "slow.py").write_text(
        (root / "recipes" / "slow.py")
        .read_text()
        .replace("batch)\n", "batch) * (1e30 ** 20 if run.steps_done == 2 else 1)\n")
        .replace("1e30 ** 20", "float('nan')")
    )
    plan = planned(root)
    with pytest.raises(PtwError, match=r"step 3: the loss is nan, on the samples data/views.jsonl:\d+"):
        trained(plan)
    found = record.read(plan.run_folder())
    assert found.state == "failed"
    assert "step 3" in (found.message or "")


def test_epochs_end_where_the_data_ends_and_measure_on_the_way(root: Path) -> None:
    root = make_workspace(root / "own", recipe="pretrain")
    text = (root / "workspace.toml").read_text().replace("steps = 30\n", "epochs = 3\nkeep_best = true\n")
    (root / "workspace.toml").write_text(text)
    found = trained(planned(root))
    rows = [json.loads(line) for line in (found.folder / record.METRICS).read_text().splitlines()]
    evaluated = [row["step"] for row in rows if row["kind"] == "eval"]
    assert len(evaluated) == 4  # before, after each epoch
    assert {row["epoch"] for row in rows if row["kind"] == "train"} == {0, 1, 2}
    assert not list(found.folder.glob("best-*"))
    assert open_named(read(root), "next").loaded.module is not None


def test_chats_are_measured_on_held_out_data(root: Path) -> None:
    found = trained(planned(root, "chat"))
    rows = [json.loads(line) for line in (found.folder / record.METRICS).read_text().splitlines()]
    losses = [row["held_out_loss"] for row in rows if row["kind"] == "eval"]
    assert losses[0] == pytest.approx(math.log(300), rel=0.1)
    assert losses[-1] < losses[0]


def test_turns_that_are_context_only_are_told_with_their_number(root: Path) -> None:
    """Once for each turn, however many epochs; of rows that teach every turn nothing is said."""
    toml = root / "workspace.toml"
    toml.write_text(toml.read_text().replace("vocab_size = 300", 'vocab_size = 300\nchat_template = "think"'))
    (root / "think").write_text(THINKING_TEMPLATE)
    asked = {"role": "user", "content": "And?"}
    thought = {"role": "assistant", "content": "<think>hm</think>1"}

    def told(*turns: int) -> list[str]:
        declare(root, "", chats=[{"messages": [asked, thought] * count} for count in turns])
        events = lines.read(trained(planned(root, "chat")).folder / record.EVENTS)[0]
        return [event["text"].split(":")[0] for event in events if "context" in event["text"]]

    assert told(1, 2, 4, 1) == ["4 assistant turns of chats context only"]
    assert told(1, 2) == ["1 assistant turn of chats context only"]
    assert told(1, 1) == []


def test_thinking_that_is_not_written_is_told_with_its_number(root: Path) -> None:
    thought = {"role": "assistant", "content": "1", "reasoning_content": "hm"}
    declare(root, "", chats=[{"messages": [{"role": "user", "content": "And?"}, thought]}] * 3)
    events = lines.read(trained(planned(root, "chat")).folder / record.EVENTS)[0]
    texts = [event["text"] for event in events if "thought" in event["text"]]
    assert [text.split(":")[0] for text in texts] == [
        "3 assistant turns of chats learnt without what was thought"
    ]


def test_bf16_keeps_fp32_weights(root: Path) -> None:
    root = make_workspace(root / "own", recipe="pretrain")
    found = trained(planned(root, steps=3, precision="bf16"))
    assert open_named(read(root), found.name).loaded.module.lm_head.weight.dtype == torch.float32
    assert steps_of(found.folder)[0]["loss"] == pytest.approx(math.log(33), rel=0.1)


def test_a_fault_of_the_recipe_names_its_line(root: Path) -> None:
    recipe = root / "recipes" / "slow.py"
    recipe.write_text(recipe.read_text().replace("    run.save(model)", "    run.save(modle)"))
    plan = planned(root, steps=1)
    with pytest.raises(NameError):
        trained(plan)
    found = record.read(plan.run_folder())
    assert (found.message or "").startswith(f"{recipe}:")
    assert found.state == "failed"


def without_save(root: Path) -> Path:
    recipe = root / "recipes" / "slow.py"
    recipe.write_text(recipe.read_text().replace("    run.save(model)\n", ""))
    return recipe


def test_a_recipe_that_saves_no_model_fails_and_what_it_trained_is_there(
    root: Path, undisturbed: Path
) -> None:
    recipe, plan = without_save(root), planned(root)
    with pytest.raises(PtwError, match=r"train ended without run\.save\(model\).* `ptw export next-001@30 "):
        trained(plan)
    found = record.read(plan.run_folder())
    assert found.state == "failed"
    assert (found.message or "").startswith(f"{recipe}:")
    assert curve_of(found.folder) == curve_of(undisturbed)
    exported = export(read(root), f"{found.name}@30", root / "exported")
    for file in ("model.safetensors", "config.json"):
        assert (exported / file).read_bytes() == (undisturbed / record.MODEL / file).read_bytes()


def test_a_run_that_is_stopped_has_no_model_to_save_yet(root: Path) -> None:
    without_save(root)
    plan = planned(root)
    found = trained(plan, lambda: stop_after(3, plan.run_folder()))
    assert (found.state, found.message) == ("stopped", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"window": 200}, "max_position_embeddings = 128"),
        ({"rows": 0}, "rows = 0"),
        ({"steps": 0}, "steps = 0"),
        ({"learning_rate": -1}, "learning_rate = -1"),
        ({"weight_decay": -1}, "weight_decay = -1"),
        ({"warmup": -1}, "warmup = -1"),
        ({"clip_norm": -1}, "clip_norm = -1"),
        ({"eval_every": 0}, "eval_every = 0"),
    ],
)
def test_settings_that_cannot_be_are_refused(root: Path, change: dict[str, int], message: str) -> None:
    root = make_workspace(root / "own", recipe="pretrain")
    with pytest.raises(PtwError, match=message):
        trained(planned(root, **change))


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("OSError(28, 'No space left on device')", "make room"),
        ("__import__('torch').OutOfMemoryError('CUDA out of memory')", "rows_at_once"),
    ],
)
def test_what_runs_out_is_no_bug(root: Path, fault: str, message: str) -> None:
    recipe = root / "recipes" / "slow.py"
    recipe.write_text(recipe.read_text().replace("    run.save(model)", f"    raise {fault}"))
    plan = planned(root, steps=1)
    with pytest.raises(PtwError, match=message):
        trained(plan)
    found = record.read(plan.run_folder())
    assert found.state == "failed"
    assert message in (found.message or "")
    assert not (found.folder / "error.txt").exists()


def test_a_worker_lost_while_it_loads_is_not_started_for_ever(root: Path) -> None:
    recipe = root / "recipes" / "slow.py"
    recipe.write_text(
        recipe.read_text().replace("    model, optimizer =", "    raise KeyboardInterrupt\n    _ =")
    )
    plan = dataclasses.replace(planned(root), launch="one")
    for _ in range(STARTS_IN_VAIN):
        with pytest.raises(KeyboardInterrupt):  # not caught, as a kill is not
            trained(plan)
    with pytest.raises(PtwError, match="lost 5 times after step 0"):
        trained(plan)
    assert record.read(plan.run_folder()).state == "failed"


@pytest.mark.slow
def test_measuring_is_no_part_of_a_step(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measure = held_out.losses

    def slowly(run: Run, model: torch.nn.Module) -> dict[str, float]:
        time.sleep(5)
        return measure(run, model)

    monkeypatch.setattr(held_out, "losses", slowly)
    assert steps_of(trained(planned(root, "chat", steps=1)).folder)[0]["seconds"] < 5


def test_a_stop_is_heeded_while_the_rows_are_counted(root: Path) -> None:
    root = make_workspace(root / "own", recipe="pretrain")
    text = (root / "workspace.toml").read_text().replace("steps = 30\n", "epochs = 3\n")
    (root / "workspace.toml").write_text(text)
    plan = planned(root)
    assert trained(plan, lambda: True).state == "stopped"
    assert steps_of(plan.run_folder()) == []
    record.change(plan.run_folder(), state="running")
    assert trained(plan).state == "done"


def test_rows_are_counted_over_slices() -> None:
    rows = [PackedRow(np.ones(1), np.ones(1), (1,), ())] * (2 * SLICE)
    alone = Group(0, 1, torch.device("cpu"))
    assert rows_of(iter(rows), alone, lambda: False) == 2 * SLICE
    assert rows_of(iter(rows[:-1]), alone, lambda: False) == 2 * SLICE - 1
    with pytest.raises(Stopped):
        rows_of(iter(rows), alone, lambda: True)


def test_who_counts_long_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(count, "SAY_SECONDS", -1.0)
    rows = [PackedRow(np.ones(1), np.ones(1), (1,), ())] * (2 * SLICE + 1)
    said = list[int]()
    assert rows_of(iter(rows), Group(0, 1, torch.device("cpu")), lambda: False, said.append) == 2 * SLICE + 1
    assert said == [SLICE, 2 * SLICE]


def test_rows_are_counted_once_for_all_runs_of_the_same(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_workspace(root / "own", recipe="pretrain")
    toml = root / "workspace.toml"
    toml.write_text(toml.read_text().replace("steps = 30\n", "epochs = 1\n"))
    plain, counted = count._rows, list[int]()
    monkeypatch.setattr(count, "_rows", lambda *given: counted.append(plain(*given)) or counted[-1])

    def total(**settings: object) -> int:
        plan = planned(root, **settings)
        about = {key: facts.facts_of(plan)[key] for key in ("digests", "fingerprint")}
        record.change(plan.run_folder(), **about)
        return int(steps_of(trained(plan).folder)[-1]["total"])

    first = total()
    (kept,) = (root / ".ptw" / "rows").iterdir()
    assert (total(learning_rate=1e-4), len(counted)) == (first, 1)
    kept.write_text("{")
    assert (total(), len(counted)) == (first, 2)
    assert (total(rows=1) > first, len(counted)) == (True, 3)
    views = root / "data" / "views.jsonl"
    views.write_text(views.read_text() * 2)
    assert (total() > first, len(counted)) == (True, 4)


def test_the_schedule_ends_with_the_run_also_where_an_epoch_is_no_whole_step(root: Path) -> None:
    toml = root / "workspace.toml"
    toml.write_text(
        toml.read_text().replace(
            "{ steps = 6, window = 128, rows = 2,", "{ epochs = 7, window = 128, rows = 4,"
        )
    )
    steps = steps_of(trained(planned(root, "chat")).folder)
    assert {step["total"] for step in steps} == {len(steps)}


def test_what_a_failed_run_is_told_to_change_may_be_changed(root: Path) -> None:
    run = launch.begun(read(root), "next", {}, resume=False)
    record.change(run.folder, state="failed")
    advised = {"rows_at_once": "1", "on_nan": "skip"}
    settings = launch.begun(read(root), "next", advised, resume=True).plan["settings"]
    assert (settings["rows_at_once"], settings["on_nan"]) == (1, "skip")


def test_a_norm_of_0_shortens_nothing_and_biases_do_not_decay() -> None:
    module = nn.Linear(2, 2)
    module.gate_bias = nn.Parameter(torch.ones(3, 2))
    for parameter in module.parameters():
        parameter.grad = torch.full_like(parameter, 5)
    assert clip(module.parameters(), 0) == pytest.approx(5 * 12**0.5)
    assert all((parameter.grad == 5).all() for parameter in module.parameters())
    assert clip(module.parameters(), 1) > 1
    assert sum(parameter.grad.square().sum() for parameter in module.parameters()) == pytest.approx(1)
    decayed, rest = (group["params"] for group in adamw(module, 1e-3, 0.1).param_groups)
    assert [id(one) for one in decayed] == [id(module.weight)]
    assert len(rest) == 2
