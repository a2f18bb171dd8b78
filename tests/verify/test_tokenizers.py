"""A tokenizer is the same wherever it is used, or it is said where not, to the character and the part."""

import importlib.util
import io
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from git import Actor, Repo
from rich.console import Console
from tokenizers import normalizers
from transformers import PreTrainedTokenizerFast

from ptw.errors import PtwError
from ptw.runs import record
from ptw.tokens import awkward, fingerprint
from ptw.tokens.declared import open_tokenizer
from ptw.verify.choose import chosen
from ptw.verify.reports.html import as_html
from ptw.verify.reports.junit import as_junit
from ptw.verify.reports.report import Report, SubjectReport
from ptw.verify.reports.text import show
from ptw.verify.verify import Request, verify
from ptw.workspace.manifest import read
from tests.train.conftest import declare, with_codes

TOML = """
[workspace]
name = "catalogue"
[tokenizers.words]
learn_from = "chats"
vocab_size = 400
[tokenizers.titles]
items = "data/items.jsonl"
[datasets.chats]
source = "data/chats.jsonl"
format = "chat"
[datasets.views]
source = "data/views.jsonl"
format = "event"
"""
REAL = ("gpt2", "minimind", "phi-3-mini", pytest.param("qwen2.5", marks=pytest.mark.slow))
Change = Callable[[Path], None]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace with a tokenizer of text, one of items, and a run that exported the first."""
    root = tmp_path_factory.mktemp("made") / "catalogue"
    (root / "data").mkdir(parents=True)
    draws = [f"Film {at} is {chr(97 + at % 26) * 3}{at % 7}ing, née Çelik 🙂" for at in range(200)]
    turns = [
        {"messages": [{"role": "user", "content": said}, ANSWER | {"content": said[::-1]}]} for said in draws
    ]
    files = {
        "chats": turns,
        "items": [{"id": f"item{at}"} for at in range(20)],
        "views": [{"items": ["item3", "item1"]}],
    }
    for name, rows in files.items():
        (root / "data" / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (root / "workspace.toml").write_text(TOML)
    workspace = read(root)
    words = open_tokenizer(workspace, "words")
    plan = {
        "tokenizer": vars(workspace.tokenizers["words"]),
        "datasets": {"chats": vars(workspace.datasets["chats"]) | {"source": ["data/chats.jsonl"]}},
    }
    run = record.create(root, "chat", plan=plan, state="done", fingerprint=words.fingerprint)
    words.save(run.folder / record.MODEL)
    return root


ANSWER = {"role": "assistant"}


@pytest.fixture
def root(made: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(made, tmp_path / "catalogue"))


def verified(root: Path, *names: str, **how: Any) -> SubjectReport:
    (report,) = verify(root, Request(names, tokenizers=True, **how)).tokenizers
    return report


def exported(root: Path) -> Path:
    return root / "runs" / "chat-001" / record.MODEL


def edited(file: Path, change: Callable[[dict[str, Any]], None]) -> None:
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def test_declared_tokenizers_and_a_runs_export_agree_on_all_sides(root: Path) -> None:
    report = verify(root, Request(tokenizers=True))
    assert report.passed, [subject.words for subject in report.tokenizers]
    words, titles = report.tokenizers
    assert (words.name, titles.name, report.ports) == ("words", "titles", ())
    assert {entry.verifier for entry in words.measured} >= {"texts", "templates", "vocabulary", "round_trip"}
    sides = {case for verifier, _, case, _ in words.by_case if verifier == "texts"}
    assert sides - {"vLLM on the export"} == {
        "the export, opened again",
        "AutoTokenizer on the export",
        "tokenizer.json of the export",
    }
    assert words.cases > 900
    lost = {entry.metric: entry.value for entry in words.measured if entry.verifier == "round_trip"}
    assert lost == {"text": 0, "lost": 0}  # bytes are tokens: every text comes back whole
    assert any("templates was not run" in text for text in titles.not_run)
    without = any("vLLM was not compared: it is not installed" in text for text in words.not_run)
    assert without == (importlib.util.find_spec("vllm") is None) == ("vLLM on the export" not in sides)
    run = verified(root, "chat-001")
    assert run.passed, run.words
    assert run.name == "chat-001"


def normaliser(folder: Path) -> None:
    edited(folder / "tokenizer.json", lambda values: values.update(normalizer={"type": "Lowercase"}))


def pre_tokeniser(key: str) -> Change:
    def plant(folder: Path) -> None:
        def change(values: dict[str, Any]) -> None:
            part = values["pre_tokenizer"]["pretokenizers"][1]
            part[key] = not part[key]

        edited(folder / "tokenizer.json", change)

    return plant


def added_flag(flag: str) -> Change:
    def plant(folder: Path) -> None:
        edited(
            folder / "tokenizer.json",
            lambda values: values["added_tokens"][3].update({flag: not values["added_tokens"][3][flag]}),
        )
        edited(
            folder / "tokenizer_config.json",
            lambda values: values.pop("added_tokens_decoder", None),
        )

    return plant


def template(folder: Path) -> None:
    file = folder / "chat_template.jinja"
    text = file.read_text()
    assert "{{- '\\n' }}" in text
    file.write_text(text.replace("{{- '\\n' }}", "{{ '\\n' }}"))


def bos(folder: Path) -> None:
    single = [
        {"SpecialToken": {"id": "<|endoftext|>", "type_id": 0}},
        {"Sequence": {"id": "A", "type_id": 0}},
    ]
    special = {"<|endoftext|>": {"id": "<|endoftext|>", "ids": [0], "tokens": ["<|endoftext|>"]}}
    processor = {"type": "TemplateProcessing", "single": single, "pair": [*single], "special_tokens": special}
    processor["pair"] += [{"Sequence": {"id": "B", "type_id": 1}}]
    edited(folder / "tokenizer.json", lambda values: values.update(post_processor=processor))


def truncated(folder: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        vocabulary = values["model"]["vocab"]
        for token in sorted(vocabulary, key=lambda token: int(vocabulary[token]))[-5:]:
            del vocabulary[token]
        values["model"]["merges"] = values["model"]["merges"][:-5]

    edited(folder / "tokenizer.json", change)


def merged(folder: Path) -> None:
    def change(values: dict[str, Any]) -> None:
        values["model"]["merges"].reverse()

    edited(folder / "tokenizer.json", change)


def other_end(folder: Path) -> None:
    edited(folder / "tokenizer_config.json", lambda values: values.update(eos_token="<|im_end|>"))


@pytest.mark.parametrize(
    ("plant", "verifier", "culprit"),
    [
        (normaliser, "texts", 'the normaliser ({"type": "Lowercase"} there, none here) makes'),
        (pre_tokeniser("add_prefix_space"), "texts", "the pre-tokeniser ("),
        # its regular expression: no token of so small a vocabulary spans two words
        (pre_tokeniser("use_regex"), "pipeline", "'pre_tokenizer' is "),
        (added_flag("lstrip"), "texts", "added token '<|im_end|>' lstrip is true there, false here"),
        (added_flag("rstrip"), "texts", "added token '<|im_end|>' rstrip is true there, false here"),
        (added_flag("single_word"), "texts", "added token '<|im_end|>' single_word is true there"),
        (added_flag("normalized"), "vocabulary", "'normalized': True"),
        (added_flag("special"), "vocabulary", "'special': False"),
        (template, "templates", "of the chat template is "),
        (bos, "texts", "the post-processor ("),
        (truncated, "vocabulary", "is none there"),
        (merged, "texts", "the merges "),
        (merged, "pipeline", "'model' is BPE"),
        (other_end, "vocabulary", "'eos_token' is <|im_end|> there, <|endoftext|> here"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_a_planted_fault_is_caught_and_explained(
    plant: Change, verifier: str, culprit: str, root: Path
) -> None:
    plant(exported(root))
    report = verified(root, "chat-001", only=(verifier,))
    assert not report.passed
    assert verifier in {entry.verifier for entry in report.measured if not entry.passed}
    told = [text for text in report.explained if text.startswith(f"{verifier}, ")]
    assert any(culprit in text for text in told), report.explained
    if "culprit" in told[0]:
        assert "parts at " in told[0]


def test_an_explanation_goes_to_the_character(root: Path) -> None:
    normaliser(exported(root))
    explained = verified(root, "chat-001", only=("texts",)).explained
    told = next(text for text in explained if "AutoTokenizer on the export: ids" in text)
    first, theirs, ours, culprit = told.splitlines()[:4]
    assert "parts at character 0, " in first
    assert theirs.startswith("  AutoTokenizer on the export: « ")
    assert ours.startswith("  the trainer: « ")
    assert culprit.startswith("  culprit: the normaliser")


@pytest.fixture
def rebuilt(tmp_path: Path) -> Path:
    """A checkpoint whose class makes transformers build another pipeline than its tokenizer.json has."""
    folder = tmp_path / "rebuilt"
    backend = tokenizers.Tokenizer(tokenizers.models.BPE(byte_fallback=True, unk_token="<unk>"))
    backend.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=300,
        special_tokens=["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))],
        show_progress=False,
    )
    backend.train_from_iterator(["hello hello there there", "what is there to say"], trainer)
    hf = PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )
    hf.save_pretrained(str(folder))
    edited(folder / "tokenizer_config.json", lambda values: values.update(tokenizer_class="LlamaTokenizer"))
    return folder


def test_autotokenizer_that_ignores_tokenizer_json_is_said_and_put_right(rebuilt: Path, root: Path) -> None:
    with (root / "workspace.toml").open("a") as file:
        file.write(f'[tokenizers.rebuilt]\nhf = "{rebuilt}"\n')
    report = verified(root, "rebuilt")
    assert report.passed, report.words
    (note, *told) = report.remarks
    assert "AutoTokenizer ignores tokenizer.json" in note
    assert any("texts, AutoTokenizer on the source: ids: " in text for text in told)
    assert any("culprit: " in text and "parts at character" in text for text in told)


def test_a_run_is_held_to_what_it_was_trained_with(root: Path) -> None:
    """Not to what its declaration has become since."""
    with (root / "data" / "chats.jsonl").open("a") as file:
        file.write(json.dumps({"messages": [{"role": "user", "content": "quite another " * 50}]}) + "\n")
    report = verified(root, "chat-001")
    assert report.passed, report.words
    assert any("can't be made again as the run had it" in text for text in report.remarks)
    normaliser(exported(root))
    report = verified(root, "chat-001")
    assert any("neither its export nor tokenizer words of today" in text for text in report.failures)


def test_names_are_found_and_unknown_ones_told(root: Path) -> None:
    assert chosen(root, ["titles"]).tokenizers == ("titles",)
    assert [run.name for run in chosen(root, ["chat"]).runs] == ["chat-001"]
    assert chosen(root, []).tokenizers == ("words", "titles")
    assert set(chosen(root, ["llama", "words"]).ports) == {"llama"}
    assert not chosen(root, [], tokenizers_only=True).ports
    with pytest.raises(PtwError, match=r"'nothing' is neither .*known: .*llama.*words"):
        chosen(root, ["nothing"])


def test_a_pass_is_kept_until_something_changes(root: Path) -> None:
    assert not verified(root, "titles").kept
    assert verified(root, "titles").kept
    (root / "data" / "items.jsonl").write_text('{"id": "other"}\n')
    assert not verified(root, "titles").kept
    assert not verified(root, "titles", fresh=True).kept


TAUGHT = """
[models.small.config]
model_type = "llama"
hidden_size = 32
[models.taught]
hf = "runs/teach-001/model"
[recipes.teach]
recipe = "sft"
model = "small"
tokenizer = "words"
dataset = "chats"
[recipes.again]
recipe = "sft"
model = "taught"
dataset = "chats"
"""
CODES = """
[semantic_ids.views]
items = "data/items.jsonl"
levels = 2
codebook_size = 8
[tokenizers.codes]
semantic_ids = "views"
"""


def coded(root: Path, version: int, codes: list[list[int]]) -> None:
    names = [f"item{n}" for n in range(20)]
    with_codes(root, "views", codes, items=names, size=8, file="data/items.jsonl", version=version)


def test_a_tokenizer_that_a_run_will_make_has_nothing_to_verify_yet(root: Path) -> None:
    declare(root, TAUGHT)
    report = verify(root, Request(tokenizers=True))
    assert report.passed
    assert {one.name: one.waits for one in report.tokenizers if one.waits} == {
        "taught": "tokenizer taught: runs/teach-001/model is not there yet; `ptw train teach` makes it"
    }
    assert not verify(root, Request(("taught",), tokenizers=True)).passed


def test_a_vocabulary_that_is_not_built_has_nothing_to_verify(root: Path) -> None:
    declare(root, CODES)
    report = verify(root, Request(tokenizers=True))
    assert report.passed
    assert [one.name for one in report.tokenizers if one.waits] == ["codes"]
    console = Console(file=io.StringIO(), width=200)
    show(report, console)
    assert (
        "codes: semantic_ids.views: none was built yet; run `ptw vocab build views`"
        in console.file.getvalue()
    )
    assert not verify(root, Request(("codes",), tokenizers=True)).passed
    coded(root, 1, [[n // 8, n % 8] for n in range(20)])
    built = verified(root, "codes")
    assert built.passed
    assert built.measured
    assert verified(root, "codes").kept
    coded(root, 2, [[n % 8, n // 8] for n in range(20)])
    assert not verified(root, "codes").kept


def test_an_acceptance_draws_texts_by_its_seed(root: Path) -> None:
    first, again, other = (dict(awkward.at_random(seed, 50)) for seed in (7, 7, 8))
    assert first == again
    assert set(first.values()) != set(other.values())
    accepted = verify(root, Request(("titles",), level="acceptance", seed=7, tokenizers=True))
    assert accepted.seed == 7
    assert accepted.passed


def test_verifiers_can_be_asked_alone(root: Path) -> None:
    report = verified(root, "words", only=("texts",))
    assert {entry.verifier for entry in report.measured} == {"texts"}


def test_a_verifier_of_the_workspace_is_one_file(root: Path) -> None:
    (root / "verifiers").mkdir()
    (root / "verifiers" / "short.py").write_text(
        'SUBJECT = "tokenizer"\nLIMITS = {"tokens": 0}\n'
        "def probe(side, inputs):\n    return {'tokens/many': len(side.encode('a' * 50)) > 10}\n"
        "def measure(ours, theirs):\n    return {'tokens': float(theirs['tokens/many'])}\n"
    )
    report = verified(root, "words")
    assert {entry.metric for entry in report.measured if not entry.passed} == {"tokens"}
    (root / "verifiers" / "short.py").write_text(
        "SUBJECT = 'model'\nLIMITS = {'a': 0}\ndef measure(o, t): ...\n"
    )
    with pytest.raises(PtwError, match="SUBJECT = 'model': it takes port or tokenizer"):
        verified(root, "words")


@pytest.fixture
def failed(root: Path) -> Iterator[Report]:
    normaliser(exported(root))
    return verify(root, Request(("chat-001",)))


def test_reports_show_tokenizers_as_they_show_ports(failed: Report) -> None:
    assert failed.exit_code == 1
    console = Console(file=io.StringIO(), width=200)
    show(failed, console)
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert " tokenizer  verifier" in text
    assert "AutoTokenizer on the export" in text
    assert "FAILED: 1 tokenizer, " in text
    (suite,) = [line for line in as_junit(failed).splitlines() if "<testsuite " in line]
    assert 'name="chat-001"' in suite
    assert "culprit: the normaliser" in as_junit(failed)
    assert "culprit: the normaliser" in as_html(failed)
    (values,) = json.loads(json.dumps(failed.as_json()))["tokenizers"]
    assert (values["name"], values["passed"]) == ("chat-001", False)


@pytest.mark.parametrize("name", REAL)
def test_real_tokenizers_agree_on_all_sides(name: str, real_data: Path, root: Path) -> None:
    with (root / "workspace.toml").open("a") as file:
        file.write(f'[tokenizers.real]\nhf = "{real_data / "tokenizers" / name}"\n')
    report = verified(root, "real")
    assert report.passed, report.words
    assert bool(report.remarks) == (name == "phi-3-mini")


def test_what_is_saved_says_its_fingerprint(root: Path) -> None:
    (kept,) = {path.parent for path in (root / ".ptw" / "tokenizers").glob(f"*/{fingerprint.FILE}")}
    words = open_tokenizer(read(root), "words")
    assert fingerprint.read(kept) == fingerprint.read(exported(root)) == words.fingerprint


def test_a_change_names_the_tokenizers_that_it_touches(root: Path) -> None:
    repository = Repo.init(root)
    (root / ".gitignore").write_text(".ptw/\nruns/\n")
    me = Actor("me", "me@example.org")
    repository.git.add("--all")
    repository.index.commit("Begin", author=me, committer=me)
    repository.close()

    def touched() -> tuple[str, ...]:
        report = verify(root, Request(changed_since="HEAD", tokenizers=True))
        assert report.passed
        assert report.change is not None
        assert report.change.tokenizers == tuple(subject.name for subject in report.tokenizers)
        return report.change.tokenizers

    assert touched() == ()
    (root / "README.md").write_text("words\n")
    assert touched() == ()
    (root / "data" / "items.jsonl").write_text('{"id": "other"}\n')
    (root / "data" / "views.jsonl").unlink()
    (root / "data" / "views.jsonl").write_text('{"items": ["other"]}\n')
    assert set(touched()) == {"words", "titles"}  # all datasets give texts
