"""An endpoint is asked for each row once, within a budget, whatever befalls it, the network or the run."""

import dataclasses
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from ptw.errors import PtwError
from ptw.runs import lines, record
from ptw.runs.open import open_named
from ptw.train import launch
from ptw.train.labels import endpoint as asked
from ptw.train.plan import Plan
from ptw.workspace.check import problems
from ptw.workspace.manifest import read
from tests.train.conftest import (
    declare,
    make_workspace,
    measured_of,
    planned,
    steps_of,
    together,
    trained,
)
from tests.train.served import Served, serving
from tests.train.test_label import bytes_of, killed, labels_of, said_of

KEY = "key-for-tests-0123456789"
ROWS = 24
IN, OUT = 1e-3, 2e-3  # dollars a token
TOML = """
[models.far]
endpoint = "{url}"
served_as = "adder-1"
api_key_env = "ADDER_KEY"
usd_per_million_input = 1000
usd_per_million_output = 2000
[datasets.questions]
source = "data/questions.jsonl"
format = "prompt"
[recipes.answers]
recipe = "label"
model = "far"
tokenizer = "words"
dataset = "questions"
settings = {{ concurrency = 4, max_new_tokens = 8, timeout_seconds = 0.8, temperature = 0.7 }}
"""


@pytest.fixture
def server() -> Iterator[Served]:
    with serving() as one:
        yield one


@pytest.fixture
def root(tmp_path: Path, server: Served, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(asked, "FIRST_WAIT_SECONDS", 0.01)
    monkeypatch.setenv("ADDER_KEY", KEY)
    return with_questions(tmp_path / "ws", server.url)


def with_questions(root: Path, url: str, *more: str) -> Path:
    prompts = [*(f"What is {n} and {('one', 'two', 'three')[n % 3]}?" for n in range(ROWS)), *more]
    questions = [{"id": n, "prompt": prompt} for n, prompt in enumerate(prompts)]
    return declare(make_workspace(root), TOML.format(url=url), questions=questions)


def cost_of(row: dict[str, Any]) -> float:
    return float(row["cost"]["usd"])


def begun(root: Path, resume: bool = False, **overrides: str) -> Plan:
    """A run as the driver begins it, or goes on with it, to train in this process."""
    found = launch.begun(read(root), "answers", overrides, resume)
    plan = dataclasses.replace(Plan.from_json(found.plan), folder=found.folder, threads=1)
    record.change(found.folder, state="running", plan=plan.as_json())
    return plan


def going_on(plan: Plan) -> None:
    record.change(plan.run_folder(), state="running")


def test_each_row_is_asked_once_and_its_cost_is_counted(root: Path, server: Served) -> None:
    server.seconds = 0.02
    found = trained(planned(root, "answers"))
    rows = labels_of(found.folder)
    assert [row["id"] for row in rows] == list(range(ROWS))
    assert len(server.asked) == ROWS
    assert 2 <= server.most_at_once <= 4
    assert {header["Authorization"] for header in server.headers} == {f"Bearer {KEY}"}
    for body in server.asked:
        assert (body["model"], body["max_tokens"], body["temperature"]) == ("adder-1", 8, 0.7)
    assert len({body["seed"] for body in server.asked}) == ROWS, "each answer is drawn by a seed of its own"
    for row in rows:
        assert row["cost"] == {
            "input_tokens": 10 + len(row["messages"][0]["content"]) // 4,
            "output_tokens": 2,
            "usd": pytest.approx(row["cost"]["input_tokens"] * IN + 2 * OUT),
        }
    (measured,) = measured_of(found.folder)
    assert measured["usd"] == pytest.approx(sum(map(cost_of, rows)))
    assert measured["spent_usd"] == pytest.approx(measured["usd"])
    assert steps_of(found.folder)[-1]["usd"] == pytest.approx(measured["usd"])
    for path in found.folder.rglob("*"):
        assert path.is_dir() or KEY.encode() not in path.read_bytes(), path


def test_what_may_pass_is_asked_again(root: Path, server: Served) -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=1), usegmt=True)
    server.faults = [(429, "0.3"), 500, "drop", "stall", "garble", 503, (529, later), 408]
    began = time.monotonic()
    found = trained(planned(root, "answers"))
    assert time.monotonic() > began + 0.3, "Retry-After is heeded"
    rows = labels_of(found.folder)
    assert [row["id"] for row in rows] == list(range(ROWS))
    assert len(server.asked) == ROWS + 8
    (measured,) = measured_of(found.folder)
    lost = measured["spent_usd"] - measured["usd"]
    assert lost > 3 * 8 * OUT, "what was dropped, stalled or garbled may have been paid for"


def test_what_is_no_answer_is_kept_with_the_reason(root: Path, server: Served) -> None:
    with_questions(root.parent / "more", server.url, "Refuse.", "Filter.", "Ramble.", "Say nothing.")
    server.faults = [None, 400]
    found = trained(planned(root.parent / "more", "answers", concurrency=1))
    reasons = {row["id"]: row["refused"] for row in labels_of(found.folder, "refused")}
    assert reasons == {
        1: "HTTP 400: no, said to Bearer [redacted]",
        24: "the model refuses: I would rather not.",
        25: "the endpoint's content filter took the answer",
        26: "cut off after max_new_tokens = 8",
        27: "the answer is empty",
    }
    assert len(labels_of(found.folder)) == ROWS - 1
    refused = labels_of(found.folder, "refused")[-1]
    assert refused["prompt"] == [{"role": "user", "content": "Say nothing."}]
    assert cost_of(refused) > 0


def test_a_budget_is_never_exceeded_and_may_be_raised(root: Path, server: Served) -> None:
    undisturbed = trained(planned(root, "answers")).folder
    whole = measured_of(undisturbed)[0]["usd"]
    answered = server.answered
    plan = begun(root, budget_usd="0.25")
    with pytest.raises(PtwError) as caught:
        trained(plan)
    folder, some = plan.run_folder(), len(said_of(plan.run_folder()))
    spent = sum(said["usd"] for said in said_of(folder))
    assert 0 < spent <= 0.25 < whole
    assert server.answered - answered == some
    assert f"budget_usd = 0.25: ${spent:.4f} is spent, or may be, and {some} of 24 are" in str(caught.value)
    assert "`ptw train answers --resume --set budget_usd=...`" in str(caught.value)
    server.asked.clear()
    trained(begun(root, resume=True, budget_usd="5"))
    assert bytes_of(folder) == bytes_of(undisturbed)
    assert len(server.asked) == ROWS - some


def test_a_killed_run_asks_on_elsewhere(root: Path, server: Served) -> None:
    """kill -9 with requests under way: their cost is counted, and the server may have moved."""
    undisturbed = bytes_of(trained(planned(root, "answers")).folder)
    server.seconds = 0.5
    plan = begun(root)
    folder = plan.run_folder()
    killed(plan, least=5, seconds=0.2)  # the next ones are under way
    some = len(said_of(folder))
    tries = [line for line in lines.read(folder / "asked-00000.jsonl")[0] if "most" in line]
    under_way = len(tries) - some
    assert 5 <= some < ROWS
    assert under_way > 0
    with serving() as other:
        toml = root / "workspace.toml"
        toml.write_text(toml.read_text().replace(server.url, other.url))
        plan = begun(root, resume=True)
        assert plan.model.endpoint == other.url
        trained(plan)
        assert len(other.asked) == ROWS - some
    assert bytes_of(folder) == undisturbed
    assert len(said_of(folder)) == ROWS
    measured = measured_of(folder)[-1]
    assert measured["spent_usd"] - measured["usd"] >= under_way * 8 * OUT


def test_a_stop_waits_for_what_is_paid_for(root: Path, server: Served) -> None:
    undisturbed = bytes_of(trained(planned(root, "answers")).folder)
    server.seconds = 0.2
    plan = planned(root, "answers")
    answered = server.answered
    assert trained(plan, lambda: server.answered >= answered + 2).state == "stopped"
    some = len(said_of(plan.run_folder()))
    assert some == server.answered - answered < ROWS
    server.seconds = 0
    going_on(plan)
    trained(plan)
    assert bytes_of(plan.run_folder()) == undisturbed
    measured = measured_of(plan.run_folder())[-1]
    assert measured["spent_usd"] == pytest.approx(measured["usd"])


def test_reasoning_models_are_told_their_limit_in_their_word(root: Path, server: Served) -> None:
    server.takes_max_tokens = False
    assert len(labels_of(trained(planned(root, "answers")).folder)) == ROWS
    assert sum("max_completion_tokens" in body for body in server.asked) == ROWS


def test_the_key_must_be_there_and_a_budget_needs_prices(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for overrides, said in (
        ({"window": 64}, "window = 64: it has no effect on model far"),
        ({"budget_usd": 0}, "budget_usd = 0"),
    ):
        with pytest.raises(PtwError, match=said):
            trained(planned(root, "answers", **overrides))
    monkeypatch.delenv("ADDER_KEY")
    with pytest.raises(
        PtwError, match=r"model far: the environment variable ADDER_KEY \(api_key_env\) is not set"
    ):
        trained(planned(root, "answers"))
    toml = root / "workspace.toml"
    text = "\n".join(
        line for line in toml.read_text().splitlines() if not line.startswith(("usd_", "api_key"))
    )
    toml.write_text(text)
    with pytest.raises(
        PtwError, match=r"budget_usd = 1.0: model far has no prices; set usd_per_million_input and"
    ):
        trained(planned(root, "answers", budget_usd="1.0"))
    assert "usd" not in measured_of(trained(planned(root, "answers")).folder)[0]


@pytest.mark.parametrize(
    ("old", "new", "key", "said"),
    [
        ('served_as = "adder-1"\n', "", "models.far.endpoint", "needs served_as beside it"),
        ('endpoint = "http', 'endpoint = "ftp', "models.far.endpoint", "http://127.0.0.1:8000/v1"),
        ("http://127", "http://me:secret@127", "models.far.endpoint", "it holds a password"),
        ('served_as = "adder-1"', 'served_as = "a"\nport = "llama"', "models.far.port", "has no port"),
        ('served_as = "adder-1"', 'served_as = "a"\nhf = "x"', "models.far.endpoint", "only one of"),
        (
            'api_key_env = "ADDER_KEY"',
            'api_key_env = "sk-1234"',
            "models.far.api_key_env",
            "not a variable's name",
        ),
        (
            "usd_per_million_output = 2000\n",
            "",
            "models.far.usd_per_million_input",
            "needs usd_per_million_output",
        ),
        ('recipe = "label"', 'recipe = "sft"', "recipes.answers.model", "recipes/sft needs its weights here"),
        (
            '[recipes.chat]\nrecipe = "sft"',
            '[recipes.chat]\nroles = { teacher = "far" }\nrecipe = "distill"',
            "recipes.chat.roles.teacher",
            "an endpoint serves it",
        ),
    ],
)
def test_a_mistake_about_an_endpoint_is_told(root: Path, old: str, new: str, key: str, said: str) -> None:
    toml = root / "workspace.toml"
    assert problems(root) == []
    toml.write_text(toml.read_text().replace(old, new, 1))
    told = [str(problem) for problem in problems(root) if problem.key == key]
    assert any(said in one for one in told), problems(root)
    assert "secret" not in str(told)


def test_where_weights_are_needed_an_endpoint_is_refused(root: Path) -> None:
    with pytest.raises(
        PtwError, match=r"model far: http://127\.0\.0\.1:\d+/v1 serves it, and there are no weights"
    ):
        open_named(read(root), "far")


@pytest.mark.slow
def test_two_workers_ask_as_one(root: Path, server: Served) -> None:
    one = trained(planned(root, "answers"))
    server.asked.clear()
    server.seconds = 0.05
    plan = planned(root, "answers")
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert bytes_of(plan.run_folder()) == bytes_of(one.folder)
    assert len(server.asked) == ROWS
    broke = planned(root, "answers", budget_usd=0.25)
    assert [done.returncode for done in together(broke, 2)] == [1, 1]
    assert "budget_usd = 0.25" in str(record.read(broke.run_folder()).message)
    assert sum(said["usd"] for said in said_of(broke.run_folder())) <= 0.25
