"""A row that is never answered is refused by itself; an endpoint that answers no more ends the run."""

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ptw.errors import PtwError
from ptw.runs import lines, record
from ptw.train.labels import endpoint as asked
from ptw.train.labels.bill import Bill
from ptw.train.labels.store import Stage
from tests.train.conftest import measured_of, planned, steps_of, together, trained
from tests.train.served import Served, serving
from tests.train.test_distill import ALONE
from tests.train.test_label import bytes_of, killed, labels_of, said_of
from tests.train.test_label_endpoint import OUT, ROWS, begun, going_on, root, server, with_questions

__all__ = ["root", "server"]  # fixtures

QUICK = {"tries": 2, "timeout_seconds": 0.5}
NO_CREDIT = {"error": {"message": "your credit is too low", "type": "invalid_request_error"}}
QUOTA = {"error": {"message": "you exceeded your quota", "code": "insufficient_quota"}}
FILTERED = {"error": {"message": "your prompt was filtered", "code": "content_filter"}}
COUNTED = {"error": {"message": "broken amid it"}, "usage": {"prompt_tokens": 40, "completion_tokens": 5}}


def question(n: int) -> str:
    return f"What is {n} and {('one', 'two', 'three')[n % 3]}?"


def times_asked(server: Served) -> Counter[str]:
    return Counter(body["messages"][-1]["content"] for body in server.asked)


def events_of(folder: Path) -> list[str]:
    return [event["text"] for event in lines.read(folder / record.EVENTS)[0]]


@pytest.mark.parametrize(
    ("concurrency", "row", "fault", "reason"),
    [
        (1, 0, 400, r"HTTP 400: no, .*"),
        (1, 0, 500, r"no answer to 2 requests, the last time: HTTP 500: no, .*"),
        (4, 0, 500, r"no answer to 2 requests, the last time: HTTP 500: no, .*"),
        (4, 7, 403, r"HTTP 403: no, .*"),
        (4, 12, "drop", r"no answer to 2 requests, the last time: RemoteProtocolError .*"),
        (1, ROWS - 1, "garble", r"no answer to 2 requests, the last time: no chat completion: .*"),
        (4, ROWS - 1, "stall", r"no answer to 2 requests, the last time: ReadTimeout .*"),
        (4, ROWS - 1, 422, r"HTTP 422: no, .*"),
    ],
)
def test_a_row_that_always_fails_is_refused_by_itself(
    root: Path, server: Served, concurrency: int, row: int, fault: Any, reason: str
) -> None:
    server.befalls = {question(row): fault}
    found = trained(planned(root, "answers", concurrency=concurrency, **QUICK))
    (refused,) = labels_of(found.folder, "refused")
    assert (refused["id"], refused["source"]) == (row, f"data/questions.jsonl:{row + 1}")
    assert re.fullmatch(reason, refused["refused"]), refused["refused"]
    assert [line["id"] for line in labels_of(found.folder)] == [n for n in range(ROWS) if n != row]
    asked_of = times_asked(server)
    tries = asked_of.pop(question(row))
    assert tries == (1 if isinstance(fault, int) and fault < 500 else 4)
    assert sum(asked_of.values()) - (ROWS - 1) <= 2, "another one is asked again, to see, at most twice"
    assert steps_of(found.folder)[-1]["step"] == ROWS
    assert steps_of(found.folder)[-1]["refused"] == 1
    (measured,) = measured_of(found.folder)
    assert (measured["rows"], measured["refused"]) == (ROWS - 1, 1)


def test_many_rows_in_a_row_are_refused_where_others_are_answered(root: Path, server: Served) -> None:
    """As of a dataset that is sorted by length, the longest first."""
    root = with_questions(root.parent / "more", server.url, *(f"Now {n}?" for n in range(30)))
    server.befalls = {question(n): 400 for n in range(ROWS)}
    found = trained(planned(root, "answers", **QUICK))
    assert len(labels_of(found.folder, "refused")) == ROWS
    assert len(labels_of(found.folder)) == 30
    assert len(server.asked) <= ROWS + 30 + 2


@pytest.mark.parametrize("fault", [400, 500])
def test_a_killed_run_asks_no_refused_row_again(root: Path, server: Served, fault: int) -> None:
    """kill -9: what is written of a row is decided; what is not is asked as if it had never been."""
    server.befalls = {question(2): fault}
    undisturbed = trained(planned(root, "answers", **QUICK)).folder
    server.seconds = 0.1
    plan = begun(root, tries="2", timeout_seconds="0.5")
    folder = plan.run_folder()
    killed(plan, least=8, seconds=0.05)
    before = said_of(folder)
    server.asked.clear()
    trained(begun(root, resume=True))
    known = any("refused" in said for said in before)
    assert known == (fault == 400), "what may pass is asked again last"
    assert times_asked(server)[question(2)] == (0 if known else 4)
    assert len(said_of(folder)) == len({said["row"] for said in said_of(folder)}) == ROWS
    assert bytes_of(folder) == bytes_of(undisturbed)
    assert labels_of(folder, "refused") == labels_of(undisturbed, "refused")


@pytest.mark.parametrize(
    ("answered", "fault", "said"),
    [
        (0, 503, r"HTTP 503: no, said to Bearer \[redacted\]"),
        (19, 503, "HTTP 503: no"),
        (0, 400, "HTTP 400: no"),
        (1, (400, NO_CREDIT), "HTTP 400: your credit is too low"),
        (19, 403, "HTTP 403: no"),
        (0, 404, "HTTP 404: no"),
        (19, "drop", "no answer to 2 requests, the last time: RemoteProtocolError"),
        (0, 401, r"HTTP 401: no, said to Bearer \[redacted\]; see .* look at served_as and api_key_env"),
        (1, 402, "HTTP 402: no"),
        (19, (429, QUOTA), "HTTP 429: you exceeded your quota"),
    ],
)
def test_an_endpoint_that_answers_no_more_ends_the_run(
    root: Path, server: Served, answered: int, fault: Any, said: str
) -> None:
    undisturbed = bytes_of(trained(planned(root, "answers")).folder)
    server.ends = (server.answered + answered, fault)
    server.asked.clear()
    plan = begun(root, tries="2", timeout_seconds="0.5")
    folder = plan.run_folder()
    with pytest.raises(PtwError, match=said) as caught:
        trained(plan)
    assert "then go on with --resume" in str(caught.value)
    assert "model far: http" in str(caught.value)
    some = len(said_of(folder))
    assert answered <= some <= answered + 4
    assert not any("refused" in line for line in said_of(folder))
    assert len(server.asked) < answered + 40, "soon"
    server.ends = None
    server.asked.clear()
    trained(begun(root, resume=True))
    assert bytes_of(folder) == undisturbed
    assert len(server.asked) == ROWS - some


def test_a_short_outage_refuses_no_row(root: Path, server: Served) -> None:
    server.faults = [None] * 6 + [500] * 8
    found = trained(planned(root, "answers", **QUICK))
    assert len(labels_of(found.folder)) == ROWS
    assert not labels_of(found.folder, "refused")


def test_a_rate_limit_is_waited_for(root: Path, server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    server.faults = [429] * 30 + [None] * 3 + [529] * 10
    found = trained(planned(root, "answers", **QUICK))
    assert len(labels_of(found.folder)) == ROWS
    assert not labels_of(found.folder, "refused")
    assert sum("HTTP 429: no" in text and "it is waited for" in text for text in events_of(found.folder)) == 1
    (measured,) = measured_of(found.folder)
    assert measured["spent_usd"] == pytest.approx(measured["usd"])
    monkeypatch.setattr(asked, "PATIENCE_SECONDS", 0.6)
    monkeypatch.setattr(asked, "LONGEST_LIMITED_SECONDS", 0.1)
    server.ends = (server.answered + 5, 429)
    plan = begun(root)
    with pytest.raises(PtwError, match="nothing was answered for 0 minutes, the last time: HTTP 429"):
        trained(plan)
    assert not any("refused" in line for line in said_of(plan.run_folder()))
    server.ends = None
    going_on(plan)
    trained(plan)
    assert bytes_of(plan.run_folder()) == bytes_of(found.folder)


def test_what_failed_is_on_the_bill(root: Path, server: Served) -> None:
    """Where the endpoint counts it as it counts; where it may have been billed the most; else nothing."""
    server.befalls = {question(3): (500, COUNTED), question(5): (400, FILTERED), question(7): 422}
    found = trained(planned(root, "answers", **QUICK, budget_usd=5.0))
    assert [row["id"] for row in labels_of(found.folder, "refused")] == [3, 5, 7]
    assert all("usd" not in row["cost"] for row in labels_of(found.folder, "refused"))
    (measured,) = measured_of(found.folder)
    counted = 4 * (40 * 1e-3 + 5 * OUT)
    filtered = len(f'[[{{"role": "user", "content": "{question(5)}"}}], null]') * 1e-3 + 8 * OUT
    more = measured["spent_usd"] - measured["usd"] - counted - filtered
    proofs = len(server.asked) - 4 - 1 - 1 - (ROWS - 3)
    assert more == pytest.approx(proofs * 16 * 1e-3, abs=proofs * 0.01), "asked again, to see"
    assert Bill(found.folder, ALONE, Stage(found.folder, "answers", ALONE), 5.0).usd == pytest.approx(
        measured["spent_usd"]
    ), "as a later life counts it"


def test_a_lost_try_of_a_refused_row_stays_on_the_bill(tmp_path: Path) -> None:
    stage = Stage(tmp_path, "answers", ALONE)
    bill = Bill(tmp_path, ALONE, stage, None)
    for most, usd, known in ((3.0, 3.0, False), (3.0, 0.0, True)):
        assert bill.announce((0, 0), most)
        bill.settle((0, 0), most, usd, known)
    stage.add((0, 0), {"refused": "HTTP 400"})
    assert bill.announce((1, 0), 5.0)
    bill.settle((1, 0), 5.0, 1.0)
    stage.add((1, 0), {"message": {}, "usd": 1.0})
    stage.refresh()
    assert bill.since() == 4.0
    assert Bill(tmp_path, ALONE, stage, None).usd == 4.0


def test_a_run_of_an_older_ptw_goes_on_with_its_bill(tmp_path: Path) -> None:
    """It wrote of a try that it was free, where its cost is written now."""
    stage = Stage(tmp_path, "answers", ALONE)
    asked_lines: list[dict[str, Any]] = [
        {"row": 0, "answer": 0, "most": 3.0},
        {"row": 0, "answer": 0, "free": True},
        {"row": 0, "answer": 0, "most": 3.0},
        {"row": 1, "answer": 0, "most": 5.0},  # killed amid it
        {"row": 2, "answer": 0, "most": 7.0},
        {"row": 2, "answer": 0, "free": True},
    ]
    for line in asked_lines:
        lines.append(tmp_path / "asked-00000.jsonl", line)
    stage.add((0, 0), {"message": {}, "usd": 1.0})
    stage.refresh()
    assert Bill(tmp_path, ALONE, stage, None).usd == 6.0


def test_refused_rows_are_asked_in_a_run_of_their_own(root: Path, server: Served) -> None:
    """After the endpoint is mended."""
    server.befalls = {question(n): 400 for n in (3, 9)}
    first = trained(planned(root, "answers", **QUICK))
    server.befalls.clear()
    toml = root / "workspace.toml"
    source = f'source = "runs/{first.name}/refused.jsonl"'
    toml.write_text(toml.read_text().replace('source = "data/questions.jsonl"', source))
    again = labels_of(trained(planned(root, "answers")).folder)
    assert [row["id"] for row in again] == [3, 9]
    assert sorted(row["id"] for row in (*labels_of(first.folder), *again)) == list(range(ROWS))


@pytest.mark.slow
@pytest.mark.parametrize("fault", [400, 500])
def test_two_workers_refuse_as_one(root: Path, server: Served, fault: int) -> None:
    server.befalls = {question(n): fault for n in (0, 1, ROWS - 1)}
    one = trained(planned(root, "answers", **QUICK))
    server.seconds = 0.02
    plan = planned(root, "answers", **QUICK)
    for done in together(plan, 2):
        assert done.returncode == 0, done.stderr
    assert bytes_of(plan.run_folder()) == bytes_of(one.folder)
    assert labels_of(plan.run_folder(), "refused") == labels_of(one.folder, "refused")
    with serving() as other:
        other.ends = (10, 403)
        toml = root / "workspace.toml"
        toml.write_text(toml.read_text().replace(server.url, other.url))
        gone = planned(root, "answers", **QUICK)
        assert [done.returncode for done in together(gone, 2)] == [1, 1]
        assert "HTTP 403: no" in str(record.read(gone.run_folder()).message)
        assert not any("refused" in line for line in said_of(gone.run_folder()))
