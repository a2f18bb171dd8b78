"""What is said of a dataset is what training does with it; what is wrong with it is said whole."""

import io
import json
import math
import re
import shutil
import subprocess
from collections import Counter
from collections.abc import Callable
from html import unescape
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import zstandard
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

import ptw.data.shuffle
from ptw.cli import cli
from ptw.data.pack import IGNORED
from ptw.data.stream import Stream
from ptw.errors import PtwError
from ptw.survey import tally
from ptw.survey.figures import as_json, epoch, mixed
from ptw.survey.histogram import histogram
from ptw.survey.page import as_html
from ptw.survey.report import show
from ptw.survey.samples import views, visible
from ptw.survey.setup import Setup, chosen
from ptw.survey.survey import Limit, Survey
from ptw.tokens.tokenizer import Tokenizer
from ptw.workspace.manifest import DatasetEntry, read
from tests.data.test_mix import mix_of, write_part
from tests.runs.test_pages import assert_fetches_nothing

ALL = Limit()
HOSTILE = "</span><script>alert(1)</script>\x1b[31m ⟦{{ 7 * 7 }}"


def surveyed(
    root: Path, dataset: DatasetEntry, tokenizer: Tokenizer, limit: Limit = ALL, **keys: Any
) -> Survey:
    setup = Setup(tokenizer.name, **{"window": 64, "rows": 2, "role": "dataset", **keys})
    survey = Survey.begin(root, dataset, tokenizer, setup)
    for _ in survey.steps(limit, 3, 0):
        pass
    return survey


def chat(question: str, answer: str) -> str:
    messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return json.dumps({"messages": messages})


def write_chats(root: Path, lines: list[str], **keys: Any) -> DatasetEntry:
    (root / "chats.jsonl").write_text("".join(line + "\n" for line in lines), errors="surrogateescape")
    return DatasetEntry("chats", ("chats.jsonl",), "chat", **keys)


def printed(survey: Survey, **console: Any) -> str:
    shown = Console(file=io.StringIO(), width=100, **console)
    show(survey, shown, ())
    return str(shown.file.getvalue())  # type: ignore[attr-defined]


@pytest.mark.parametrize("too_long", ["truncate", "split", "drop"])
def test_the_figures_are_those_of_training(too_long: str, item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    lengths = [1 + (at * 37) % 90 for at in range(200)]
    lines = [json.dumps({"items": [f"i{k % 50}" for k in range(length)]}) for length in lengths]
    (tmp_path / "a.jsonl").write_text("".join(line + "\n" for line in lines))
    dataset = DatasetEntry("a", ("a.jsonl",), "event", leave_out=1, too_long=too_long)
    survey = surveyed(tmp_path, dataset, item_tokenizer)
    stream = Stream(tmp_path, dataset, item_tokenizer, window=64, seed=0, epochs=1)
    rows = list(stream)
    whole = epoch(survey)
    assert whole is not None
    assert (whole.rows, whole.steps) == (len(rows), math.ceil(len(rows) / 2))
    assert whole.tokens == sum(sum(row.lengths) for row in rows)
    assert whole.learnt == sum(int((row.targets != IGNORED).sum()) for row in rows)
    assert survey.efficiency == stream.efficiency
    part, counted = stream.parts["a"], survey.tallies[0]
    assert (counted.rows, counted.used) == (200, part.used)
    assert counted.refused.count == part.refused_count
    before = [length for length in lengths if length > 1]  # what leave_out leaves, behind <s>
    assert counted.lengths == Counter([1 if length == 1 else length for length in lengths])
    assert counted.over == sum(length > 64 for length in before)
    lost = {"truncate": counted.cut_tokens, "split": 0, "drop": counted.refused_tokens - lengths.count(1)}
    assert counted.tokens + lost[too_long] == sum(before)
    assert counted.split == (counted.over if too_long == "split" else 0)
    assert counted.events is not None
    assert counted.events.taken == 200
    assert counted.events.lengths == Counter(lengths)
    assert len(counted.events.seen) == 50


def test_every_fault_is_told_and_the_first_is_that_of_training(
    chat_tokenizer: Callable[..., Tokenizer], tmp_path: Path
) -> None:
    lines = [chat(f"Hello {at}", "I am fine") for at in range(40)]
    lines[7], lines[9], lines[20] = '{"messages": [', "\udcff\udcfe", json.dumps({"text": "no chat"})
    lines[30] = chat("Hello", "I am fine " * 50)
    dataset = write_chats(tmp_path, lines)
    survey = surveyed(tmp_path, dataset, chat_tokenizer())
    with pytest.raises(PtwError) as told:
        list(Stream(tmp_path, dataset, chat_tokenizer(), window=64, seed=0, epochs=1))
    assert str(survey.fault) == str(told.value)
    assert survey.tallies[0].used == 36
    faults = {reason.places[0]: reason.text for reason in survey.tallies[0].faults.listed()}
    assert faults["chats.jsonl:8"].startswith("not JSON")
    assert faults["chats.jsonl:10"].startswith("not UTF-8 at byte 0")
    assert faults["chats.jsonl:21"].startswith("a chat row needs `messages`")
    assert "are more than the window of 64" in faults["chats.jsonl:31"]
    assert survey.whole
    assert survey.packed.rows
    for text in (printed(survey), unescape(as_html(survey, ()))):
        assert all(place in text for place in faults)


def test_a_file_that_breaks_off_leaves_what_was_read_before(
    item_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ptw.data.shuffle, "BLOCK_ROWS", 100)
    lines = "".join(json.dumps({"items": [f"i{at % 50}", "i1", f"i{at % 7}"]}) + "\n" for at in range(9000))
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(lines.encode())[:-9])
    survey = surveyed(tmp_path, DatasetEntry("a", ("a.jsonl.zst",), "event"), item_tokenizer)
    assert not survey.whole
    assert "cut off or damaged" in str(survey.ended_by)
    assert survey.fault is survey.ended_by
    assert survey.rows == survey.tallies[0].used > 0
    assert survey.packed.tokens == survey.tallies[0].tokens
    assert epoch(survey) is None  # nobody knows how large it is
    assert as_json(survey)["epoch"] is None
    assert "unknown" in printed(survey)
    assert "ended by" not in printed(survey)  # it is the fault itself
    (tmp_path / "a.jsonl.zst").write_bytes(zstandard.compress(f"[]\n{lines}".encode())[:-9])
    survey = surveyed(tmp_path, DatasetEntry("a", ("a.jsonl.zst",), "event"), item_tokenizer)
    assert "a row must be a JSON object" in str(survey.fault)
    assert re.search("ended by +a.jsonl.zst: cut off or damaged", printed(survey))


def test_a_part_is_told_as_a_part_and_reckoned_up(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    dataset = write_part(tmp_path, "a", 3000, length=5)
    part = surveyed(tmp_path, dataset, item_tokenizer, Limit(rows=600))
    assert part.rows == 600
    assert part.cut_short
    assert part.packed.tokens == part.tallies[0].tokens  # what was read is packed, all of it
    found, whole = epoch(part), epoch(surveyed(tmp_path, dataset, item_tokenizer))
    assert found is not None
    assert whole is not None
    assert found.estimated
    assert abs(found.tokens / whole.tokens - 1) < 0.02
    assert abs(found.rows / whole.rows - 1) < 0.02
    assert re.search(r"600 rows .*: a part, 20\.\d% of the bytes", printed(part))
    none = surveyed(tmp_path, dataset, item_tokenizer, Limit(seconds=0))
    assert none.rows == 1


def test_the_parts_of_a_mix_are_told_as_training_reads_them(
    item_tokenizer: Tokenizer, tmp_path: Path
) -> None:
    parts = [write_part(tmp_path, "a", 400, length=3), write_part(tmp_path, "b", 300, length=9)]
    blend = mix_of(parts, [0.8, 0.2])
    survey = surveyed(tmp_path, blend, item_tokenizer)
    stream = Stream(tmp_path, blend, item_tokenizer, window=64, seed=0, epochs=1)
    list(stream)
    assert [part.samples for part in mixed(survey)] == [p.samples_out for p in stream.parts.values()]
    a, b = mixed(survey)
    assert (a.declared, b.declared) == (0.8, 0.2)
    assert (a.times, b.times) == (pytest.approx(3, abs=0.01), 1)
    assert a.of_tokens + b.of_tokens == pytest.approx(1)
    assert survey.rows == 700  # each once, however often it is read
    some = surveyed(tmp_path, blend, item_tokenizer, Limit(rows=450))
    assert mixed(some)[0].times == pytest.approx(3, rel=0.05)


def test_a_sample_shows_exactly_what_is_learnt(
    chat_tokenizer: Callable[..., Tokenizer], tmp_path: Path
) -> None:
    answers = ["日本 🙂!", HOSTILE, "fine"]
    dataset = write_chats(tmp_path, [chat("Hello", answer) for answer in answers])
    survey = surveyed(tmp_path, dataset, chat_tokenizer(), window=1024)
    plain, html = printed(survey), as_html(survey, ())
    assert_fetches_nothing(html)
    assert "alert(1)</script>" not in html
    for view in views(survey, 1000, 100):
        learnt = "".join(span.text for span in view.head if span.learnt)
        answer = answers[int(view.id.rpartition(":")[2]) - 1]
        assert learnt == f"{visible(answer)}<|im_end|>"
        assert f"⟦{learnt}⟧" in plain
        assert sum(len(span.ids) for span in view.head if span.learnt) == view.learnt
        assert "".join(unescape(text) for text in _learnt_spans(html, view.id)) == learnt
    assert "\x1b" not in plain
    assert "⟦" not in printed(survey, force_terminal=True, color_system="standard")
    assert "⟦" in printed(survey, force_terminal=True, color_system="standard", no_color=True)


def _learnt_spans(html: str, id_: str) -> list[str]:
    own = html.partition(f"<h3>{id_} ")[2].partition("</div>")[0]
    return re.findall(r'<span class="l[^>]*>(.*?)</span>', own, re.DOTALL)


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")
def test_a_browser_tells_the_ids_of_what_one_points_at(
    chat_tokenizer: Callable[..., Tokenizer], tmp_path: Path
) -> None:
    tokenizer = chat_tokenizer()
    survey = surveyed(tmp_path, write_chats(tmp_path, [chat("Hello", "日")]), tokenizer)
    probe = (
        "<script>[...document.querySelectorAll('.l')][0]"
        ".dispatchEvent(new PointerEvent('pointerover', {bubbles: true}));</script>"
    )
    html = re.sub(r"<meta http-equiv.*?>", "", as_html(survey, ())).replace("</body>", f"{probe}</body>")
    (tmp_path / "page.html").write_text(html)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    address = (tmp_path / "page.html").as_uri()
    shown = subprocess.run([*command, address], capture_output=True, text=True, timeout=60).stdout
    ids = tokenizer.encode("日")
    told = "  ".join(f"{id_} {tokenizer.hf.convert_ids_to_tokens(id_)!r}" for id_ in ids)
    assert f'<div class="told" role="status">{told}</div>' in shown
    assert len(ids) == 3


def test_a_long_sample_is_shown_by_its_ends(chat_tokenizer: Callable[..., Tokenizer], tmp_path: Path) -> None:
    text = "日本🙂 " * 200
    (tmp_path / "a.jsonl").write_text(json.dumps({"text": text}))
    dataset = DatasetEntry("a", ("a.jsonl",), "text")
    survey = surveyed(tmp_path, dataset, chat_tokenizer(), window=8192)
    (view,) = views(survey, 41, 23)
    spans = [*view.head, *view.tail]
    assert sum(len(span.ids) for span in spans) + view.left_out == view.tokens
    head, tail = ("".join(span.text for span in some if not span.special) for some in (view.head, view.tail))
    assert text.startswith(head)
    assert text.endswith(tail)
    assert view.left_out > 100


@settings(max_examples=200, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 50_000), min_size=1, max_size=30),
    window=st.integers(2, 60_000),
)
def test_bins_leave_no_gap_count_each_once_and_part_at_the_window(lengths: list[int], window: int) -> None:
    bins = histogram(Counter(lengths), window)
    assert sum(one.count for one in bins) == len(lengths)
    assert all(a.high + 1 == b.low for a, b in pairwise(bins))
    assert bins[0].low <= min(lengths)
    assert bins[-1].high >= max(lengths)
    for one in bins:
        assert one.count == sum(one.low <= length <= one.high for length in lengths)
    assert sum(one.count for one in bins if one.over) == sum(length > window for length in lengths)
    assert max(one.share for one in bins) == 1
    assert len(bins) < 40


@given(lengths=st.lists(st.integers(0, 99), min_size=1))
def test_so_many_of_a_hundred_are_no_longer_than_a_quantile(lengths: list[int]) -> None:
    found = tally.quantiles(Counter(lengths))
    for percent in (50, 90, 99):
        value = found[f"p{percent}"]
        assert sum(length <= value for length in lengths) >= percent / 100 * len(lengths)
        assert sum(length < value for length in lengths) < percent / 100 * len(lengths)
    assert (found["min"], found["max"]) == (min(lengths), max(lengths))


def test_items_outside_the_catalogue_are_counted(item_tokenizer: Tokenizer, tmp_path: Path) -> None:
    rows = [["i1", "gone", "i2", "gone"], ["i1", "i2"], ["</s>", "i3"]]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"items": row}) + "\n" for row in rows))
    survey = surveyed(tmp_path, DatasetEntry("a", ("a.jsonl",), "event"), item_tokenizer)
    events = survey.tallies[0].events
    assert events is not None
    assert (events.unknown, sorted(events.unknown_items)) == (3, ["</s>", "gone"])
    assert events.catalogue == 50
    assert survey.tallies[0].faults.count == 2


WORKSPACE = """
[workspace]
name = "w"
[models.m.config]
model_type = "llama"
[tokenizers.items]
items = "items.jsonl"
[datasets.a]
source = "a.jsonl"
format = "event"
[datasets.b]
source = "a.jsonl"
format = "event"
[datasets.blend]
mix = { a = 3, b = 1 }
"""
RECIPE = """
[recipes.{name}]
recipe = "pretrain"
model = "m"
tokenizer = "items"
dataset = "{dataset}"
[recipes.{name}.settings]
window = {window}
rows = 3
"""


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "items.jsonl").write_text("".join(json.dumps({"id": f"i{at}"}) + "\n" for at in range(50)))
    write_part(tmp_path, "a", 90)
    recipes = [("mixing", "blend", 32), ("one", "a", 64), ("two", "a", 128), ("same", "a", 64)]
    tables = [RECIPE.format(name=name, dataset=data, window=window) for name, data, window in recipes]
    (tmp_path / "workspace.toml").write_text(WORKSPACE + "".join(tables))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_the_first_recipe_that_trains_on_it_says_how_it_is_read(workspace: Path) -> None:
    declared = read(workspace)
    setup, notes = chosen(declared, "a", None, None, None)
    assert (setup.recipe, setup.window, setup.rows, setup.tokenizer) == ("one", 64, 3, "items")
    assert [note.rpartition(" ")[2] for note in notes] == ["two", "mixing"]  # what is distinct, once
    assert chosen(declared, "a", "two", None, None)[0].window == 128
    assert chosen(declared, "a", "two", None, 16)[0].window == 16
    setup, _ = chosen(declared, "b", None, None, None)
    assert (setup.recipe, setup.role, setup.rows) == ("mixing", "part of blend", None)
    assert chosen(declared, "a", None, "items", None)[0].recipe is None
    (workspace / "workspace.toml").write_text(WORKSPACE)
    with pytest.raises(PtwError, match=r"no recipe names dataset a, .* --tokenizer \(declared: items\)"):
        chosen(read(workspace), "a", None, None, None)


def test_the_command_lists_tells_and_fails_where_training_would(workspace: Path) -> None:
    run = CliRunner().invoke
    listed = {one["name"]: one for one in json.loads(run(cli, ["data", "--json"]).output)}
    assert listed["a"]["files"] == 1
    assert listed["a"]["stored_bytes"] == (workspace / "a.jsonl").stat().st_size
    assert listed["a"]["recipes"] == ["one", "two", "same", "mixing"]
    assert listed["blend"]["shares"] == {"a": 0.75, "b": 0.25}
    assert "a 75.0%, b 25.0%" in run(cli, ["data"]).output
    found = json.loads(run(cli, ["data", "a", "--json", "--html", "out/a.html"]).output)
    assert (found["whole"], found["read"]["rows"], len(found["samples"])) == (True, 90, 3)
    assert found["epoch"]["steps"] == math.ceil(found["epoch"]["rows"] / 3)
    assert_fetches_nothing(Path("out/a.html").read_text())
    (workspace / "a.jsonl").write_text('{"items": ["i1", "i2"]}\n{"items": ["i1", "gone"]}\n')
    failed = run(cli, ["data", "a"], standalone_mode=False)
    assert isinstance(failed.exception, PtwError)
    assert "training would end at this: a.jsonl:2: item 'gone' is not in" in str(failed.exception)
    assert "1 usable; 0 rows refused, 1 faulty" in failed.output
    for wrong in (
        ["a", "--rows", "3", "--all"],
        ["--window", "8"],
        ["a", "--recipe", "x", "--tokenizer", "y"],
    ):
        assert run(cli, ["data", *wrong]).exit_code == 2


def test_reasons_of_one_kind_are_one_and_their_number_is_bounded(
    item_tokenizer: Tokenizer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = [["i1", f"gone {at}"] for at in reversed(range(30))]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"items": row}) + "\n" for row in rows))
    dataset = DatasetEntry("a", ("a.jsonl",), "event")
    (reason,) = surveyed(tmp_path, dataset, item_tokenizer).tallies[0].faults.listed()
    assert (reason.count, reason.places) == (30, ["a.jsonl:1", "a.jsonl:2", "a.jsonl:3"])
    monkeypatch.setattr(tally, "KINDS", 2)
    reasons = tally.Reasons()
    for word in ("one", "two", "three", "four"):
        reasons.add(tally.Row(f"a.jsonl:{len(word)}", {}), word)
    first = reasons.listed()[0]
    assert (first.text, first.count) == ("other reasons", 2)
