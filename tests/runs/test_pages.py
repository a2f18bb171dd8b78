"""Pages of runs: whole without a network, true to what was written down, safe whatever a run says."""

import base64
import hashlib
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from rich.console import Console

from ptw.cli import cli
from ptw.errors import PtwError
from ptw.pages.chart import MOST_BARS, MOST_POINTS, Line, drawn, stacked
from ptw.runs import compare, lines, page, record
from ptw.runs.curves import TRAINED, Measured

HOSTILE = "</script><script>alert(1)</script>'\"&{{ 7 * 7 }}"
PLAN: dict[str, Any] = {
    "settings": {"steps": 3, "learning_rate": 1e-3, "note": HOSTILE},
    "file": "recipes/sft.py",
    "dataset": "chats",
    "model": {"name": "m", "config": {"hidden_size": 64}},
    "tokenizer": {"name": "t"},
}
STEP = {
    "kind": "train",
    "total": 300,
    "learning_rate": 1e-3,
    "gradient_norm": 1.0,
    "tokens": 100,
    "packing": 0.9,
    "seconds": 0.5,
    "feed_seconds": 0.1,
    "mfu": 0.4,
    "memory_bytes": 2_000_000_000,
}
VOID = {"meta"}
PARTS = (("draw", 1.0), ("learn", 2.0))


def made(root: Path, steps: int = 300, held_out: str = "held_out_loss", **changes: Any) -> record.RunRecord:
    plan = {**PLAN, **{key: changes[key] for key in ("settings",) if key in changes}}
    found = record.create(root, "chat", plan=plan, digests={"dataset chats": "ab" * 32}, commit="c" * 40)
    (root / "workspace.toml").touch()
    for step in range(1, steps + 1):
        line = {**STEP, "step": step, "loss": 4 / step, **({"mfu": None} if step == 1 else {})}
        lines.append(found.folder / record.METRICS, line)
    lines.append(found.folder / record.METRICS, {"kind": "eval", "step": 0, held_out: 2.5})
    lines.append(found.folder / record.METRICS, {"kind": "eval", "step": steps, held_out: 1.25})
    for start in (0, 7):
        event = {"time": record.now(), "text": HOSTILE, "start": ["launch", start]}
        lines.append(found.folder / record.EVENTS, event)
    return found


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.seen.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def tags(html: str) -> Tags:
    parser = Tags()
    parser.feed(html)
    assert not parser.open
    return parser


def assert_fetches_nothing(html: str) -> None:
    """One script, the one that the policy names; no address anywhere."""
    found = tags(html).seen
    assert not [pair for pair in found if pair[0] in ("link", "img", "iframe", "object")]
    assert not [name for _, attributes in found for name in attributes if name in ("src", "href", "onload")]
    assert "url(" not in html
    assert "@import" not in html
    scripts = re.findall(r"<script>(.*?)</script>", html, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(scripts[0].encode()).digest()).decode()
    assert len(scripts) == 1
    assert f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{digest}'" in html


def test_a_page_is_whole_and_escapes_what_a_run_says(tmp_path: Path) -> None:
    html = page.as_html(made(tmp_path))
    assert_fetches_nothing(html)
    assert "alert(1)</script>" not in html
    assert "{{ 7 * 7 }}" in html
    for text in ("chat-001", "ab" * 32, "cccccccccc", "0.001", "model.config.hidden_size", "held_out_loss"):
        assert text in html
    titles = re.findall(r"<figcaption><b>(.*?)</b>", html)
    assert titles == ["held_out_loss", *(kind.title for kind in TRAINED)]


def test_a_page_of_a_run_without_a_step_says_so(tmp_path: Path) -> None:
    found = record.create(tmp_path, "chat", plan=PLAN)
    html = page.as_html(found)
    assert_fetches_nothing(html)
    assert "No step was made yet" in html


def test_the_time_of_a_step_is_drawn_by_what_took_it(tmp_path: Path) -> None:
    found = made(tmp_path, steps=0)
    for step in range(1, 4):
        clocked = {"sync_seconds": 0.5, "generate_seconds": 2.0 * step}
        lines.append(found.folder / record.METRICS, {**STEP, "step": step, "loss": 1.0, **clocked})
    html = page.as_html(found)
    assert_fetches_nothing(html)
    seen = tags(html).seen
    (area,) = (
        a
        for _, a in seen
        if str(a.get("aria-label")).startswith("time of a step by step: longest 7 s, last 7 s")
    )
    parts = json.loads(area["data-points"] or "")
    assert [(part["name"], part["series"]) for part in parts] == [("sync", 0), ("generate", 1), ("learn", 2)]
    assert parts[1]["text"] == ["2 s", "4 s", "6 s"]
    bars = [a["d"] or "" for tag, a in seen if str(a.get("class")).startswith("bar")]
    sync, generate, learn = ([box.split() for box in bar.split(" M")] for bar in bars)
    assert [len(part) for part in (sync, generate, learn)] == [3, 3, 3]

    def level(box: list[str], at: int) -> float:
        return float(box[0].split(",")[1] if at == 0 else box[2].removeprefix("V"))

    for below, above in ((sync, generate), (generate, learn)):
        assert [level(box, 1) for box in below] == [level(box, 0) for box in above], "on top of each other"
    heights = [level(box, 0) - level(box, 1) for box in generate]
    assert heights[2] == pytest.approx(3 * heights[0], rel=0.01)


def test_many_bars_become_few() -> None:
    steps = [float(step) for step in range(1, 1001)]
    parts = [Line(name, [(step, value) for step in steps], at) for at, (name, value) in enumerate(PARTS)]
    chart = stacked("time", parts, str)
    assert chart is not None
    assert len(chart.points[0]["x"]) <= MOST_BARS
    assert set(chart.points[1]["text"]) == {"2.0"}
    assert stacked("time", [Line("a", [])], str) is None
    far = stacked("time", [Line("a", [(1.0, 500.0), (2.0, 1.0), (3.0, 1.0)])], str)
    assert far is not None
    first, second, _ = far.bars[0][1].split(" M")
    assert "V0.00" in first, "cut off at the top"
    assert 70 < float(second.split("V")[1].split()[0]) < 80, "and the others are seen"
    alone = stacked("time", [Line("a", [(1.0, 0.0)])], str)
    assert alone is not None
    assert "nan" not in alone.bars[0][1]


def test_values_that_one_hovers_over_are_those_of_the_metrics(tmp_path: Path) -> None:
    seen = tags(page.as_html(made(tmp_path))).seen
    areas = {a["aria-label"].partition(" by ")[0]: a for _, a in seen if "data-points" in a}  # type: ignore[union-attr]
    loss, mfu = (json.loads(areas[name]["data-points"] or "")[0] for name in ("loss", "MFU"))
    assert loss["x"][:3] == [1, 2, 3]
    assert loss["text"][:3] == ["4", "2", "1.333"]
    assert mfu["x"][0] == 2  # where nobody knows there is no point
    assert set(mfu["text"]) == {"40%"}
    marks = [a for tag, a in seen if tag == "line" and a.get("class") == "mark"]
    assert len(marks) == len(areas)  # a resume in each


def test_many_points_are_few_on_paper_and_keep_their_ends() -> None:
    points = [(float(x), math.sin(x)) for x in range(100_000)]
    chart = drawn("wave", [Line("", points)], str)
    assert chart is not None
    (_, line, band, dots) = chart.paths[0]
    assert line.count(" L") < MOST_POINTS
    assert band.count(" L") > MOST_POINTS / 2  # between the lowest and the highest of each part
    assert dots == ""
    assert chart.range == (0.0, 99_999.0)


@pytest.mark.parametrize("points", [[], [(1.0, math.nan)], [(1.0, math.inf)]])
def test_there_is_no_chart_of_nothing(points: list[tuple[float, float]]) -> None:
    assert drawn("none", [Line("", points)], str) is None


@pytest.mark.parametrize("points", [[(1.0, 2.0)], [(1.0, 0.0), (5.0, 0.0)], [(1.0, -3.0), (2.0, 1e-9)]])
def test_every_point_lies_inside(points: list[tuple[float, float]]) -> None:
    chart = drawn("few", [Line("", points)], str)
    assert chart is not None
    places = [tuple(map(float, pair)) for pair in re.findall(r"([\d.-]+),([\d.-]+)", chart.paths[0][1])]
    assert len(places) == len(points)
    assert all(0 <= x <= 1000 and 0 <= y <= 100 for x, y in places)
    assert all(0 <= at <= 100 for at, _ in (*chart.x_ticks, *chart.y_ticks))


def test_what_differs_is_named_and_nothing_else(tmp_path: Path) -> None:
    one = made(tmp_path)
    other = made(tmp_path, steps=40, settings={**PLAN["settings"], "learning_rate": 2e-3, "rank": 8})
    other = record.change(other.folder, digests={"dataset chats": "cd" * 32}, commit="d" * 40)
    found = compare.Comparison.of(one, other)
    assert [(d.part, d.key, d.a, d.b) for d in found.differences] == [
        ("settings", "learning_rate", 1e-3, 2e-3),
        ("settings", "rank", None, 8),
        ("digests", "dataset chats", "ab" * 32, "cd" * 32),
        ("commit", "commit", "cccccccccc", "dddddddddd"),
    ]
    assert compare.Comparison.of(one, one).differences == ()
    html = compare.as_html(found, "step")
    assert_fetches_nothing(html)
    assert html.count('class="line s1"') == html.count('class="line s0"') == 1 + len(TRAINED)


def test_runs_of_other_lengths_are_drawn_over_common_axes(tmp_path: Path) -> None:
    found = compare.Comparison.of(made(tmp_path), made(tmp_path, steps=40, held_out="validation"))
    console = Console(width=100, file=io.StringIO(), force_terminal=True, color_system="standard")
    console.print(compare.show(found, "tokens"))
    text = console.file.getvalue()
    assert "30000" in text  # where the longer one ends
    assert re.search(r"\x1b\[(1;)?36mchat-001", text)
    assert re.search(r"\x1b\[(1;)?33mchat-002", text)
    drawing = compare.overlaid([[(0, 1.0), (9, 1.0)], [(0, 0.0), (9, 1.0)]], ("cyan", "yellow", "white"))
    assert {span.style for span in drawing.spans} == {"cyan", "yellow", "white"}
    values = compare.as_json(found, "tokens")
    assert values["curves"]["loss"]["b"][-1] == (4000.0, 0.1)
    assert values["curves"]["validation"] == {"a": [], "b": [(0.0, 2.5), (4000.0, 1.25)]}
    assert json.loads(json.dumps(values))["by"] == "tokens"


def test_steps_that_took_longer_stand_further_apart(tmp_path: Path) -> None:
    measured = Measured.of(made(tmp_path, steps=3))
    assert [x for x, _ in measured.trained(TRAINED[0], "seconds")] == [0.5, 1.0, 1.5]
    assert measured.measured("held_out_loss", "seconds") == [(0.0, 2.5), (1.5, 1.25)]


def test_a_port_that_was_written_is_no_training(tmp_path: Path) -> None:
    port = record.create(tmp_path, "add-x", plan={"table": {}})
    with pytest.raises(PtwError, match="add-x-001 is no training run"):
        compare.Comparison.of(made(tmp_path, steps=1), port)


def test_the_commands_write_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path, steps=4), made(tmp_path, steps=5)
    monkeypatch.chdir(tmp_path)
    for arguments in (["show", "chat-001"], ["compare", "chat-001", "chat-002"]):
        done = CliRunner().invoke(cli, ["runs", *arguments, "--html", "out/page.html"])
        assert (done.exit_code, done.output) == (0, "")
        assert_fetches_nothing(Path("out/page.html").read_text())
    done = CliRunner().invoke(cli, ["runs", "compare", "chat-001", "chat-002", "--json", "--by", "seconds"])
    assert json.loads(done.output)["curves"]["loss"]["a"][-1] == [2.0, 1.0]


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("chromium"), reason="there is no chromium")
def test_a_browser_runs_the_script_and_shows_values(tmp_path: Path) -> None:
    html = page.as_html(made(tmp_path))
    probe = (
        "<script>const area = document.querySelectorAll('.area')[1], box = area.getBoundingClientRect();"
        "area.dispatchEvent(new PointerEvent('pointermove', {clientX: box.right}));</script>"
    )
    html = re.sub(r"<meta http-equiv.*?>", "", html).replace("</body>", f"{probe}</body>")
    (tmp_path / "page.html").write_text(html)
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--dump-dom"]
    address = (tmp_path / "page.html").as_uri()
    shown = subprocess.run([*command, address], capture_output=True, text=True, timeout=60).stdout
    assert '<div class="area on"' in shown
    assert re.search(r'<div class="tip"[^>]*>step 300<div><i class="s0"></i>0.01333</div></div>', shown)
