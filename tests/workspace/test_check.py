"""Every mistake in workspace.toml is told at once, with its place and what would do."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from ptw.errors import PtwError
from ptw.workspace import manifest
from ptw.workspace.check import checked, problems
from ptw.workspace.schema import schema_text

Change = Callable[[str, str], Path]
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def test_what_is_right_has_no_problems(root: Path) -> None:
    assert problems(root) == []


def test_the_schema_is_a_schema() -> None:
    Draft202012Validator.check_schema(json.loads(schema_text()))


def test_a_checkpoint_may_ask_for_hugging_faces_own_class(changed: Change) -> None:
    root = changed('hf = "checkpoints/local"', 'hf = "checkpoints/local"\nport = "hf"')
    assert problems(root) == []
    assert manifest.read(root).models["local"].port == "hf"


OWN = """
[recipes.second]
recipe = "own"
model = "{model}"
dataset = "chats"
[models.titles]
hf = "checkpoints/local"
"""


def test_a_checkpoint_brings_its_own_tokenizer(root: Path) -> None:
    file = root / "workspace.toml"
    before = file.read_text()
    file.write_text(before + OWN.format(model="local"))
    workspace = manifest.read(root)
    assert workspace.recipes["second"].tokenizer == "local"
    assert workspace.tokenizers["local"] == manifest.TokenizerEntry("local", hf="checkpoints/local")
    assert set(workspace.tokenizers) == {"titles", "words", "events", "local"}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            "scratch",
            "model scratch is no checkpoint that has one; add tokenizer: one of [tokenizers] (titles",
        ),
        ("titles", 'the model\'s own, or [tokenizers.titles]?; add tokenizer = "titles" for the latter'),
    ],
)
def test_where_a_tokenizer_is_not_clear_it_is_asked_for(root: Path, model: str, words: str) -> None:
    file = root / "workspace.toml"
    file.write_text(file.read_text() + OWN.format(model=model))
    (found,) = problems(root)
    assert found.key == "recipes.second.tokenizer"
    assert words in str(found)


AHEAD = """
[models.taught]
hf = "runs/{recipe}-001/model"
{revision}
[tokenizers.of-a-run]
hf = "runs/{recipe}-001/model"

[recipes.answers]
recipe = "label"
model = "taught"
tokenizer = "of-a-run"
dataset = "asked"

[datasets.asked]
source = "data/asked.jsonl"
format = "prompt"

[datasets.said]
source = ["runs/{labels}-001/{file}"]
format = "chat"
"""


def test_what_runs_are_to_make_need_not_be_there(root: Path) -> None:
    """A whole pipeline is declared before its first run."""
    file = root / "workspace.toml"
    before = file.read_text()
    (root / "data" / "asked.jsonl").write_text('{"prompt": "?"}\n')
    recipe = next(iter(manifest.read(root).recipes))

    def keys(**named: str) -> list[str]:
        names = {"recipe": recipe, "labels": "answers", "file": "labels.jsonl", "revision": ""} | named
        file.write_text(before + AHEAD.format(**names))
        return [problem.key for problem in problems(root)]

    assert keys() == []
    assert checked(root).summary.splitlines()[1:] == [
        f"runs/{recipe}-001/model: `ptw train {recipe}` makes it",
        "runs/answers-001/labels.jsonl: `ptw train answers` makes it",
    ]
    assert keys(file="lables.jsonl") == ["datasets.said.source[0]"]
    assert keys(labels=recipe) == ["datasets.said.source[0]"]  # it makes a model
    assert keys(labels="answers", file="model") == ["datasets.said.source[0]"]
    assert keys(recipe="answers") == ["models.taught.hf", "tokenizers.of-a-run.hf"]  # it makes labels
    assert keys(recipe="no-recipe") == ["models.taught.hf", "tokenizers.of-a-run.hf"]
    assert keys(revision=f'revision = "{COMMIT}"') == ["models.taught.revision"]
    (root / "runs" / f"{recipe}-001" / "model").mkdir(parents=True)  # it is there, and holds nothing
    assert keys() == ["models.taught.hf", "tokenizers.of-a-run.hf"]


# what is replaced, by what, the key that is told, and what its message or hint must say
MISTAKES = [
    ('name = "small"', 'nmae = "small"', "workspace.nmae", "did you mean 'name'?"),
    ('name = "small"', "", "workspace.name", "missing"),
    ('[workspace]\nname = "small"', "", "workspace", "missing"),
    ('name = "small"', 'name = "a b"', "workspace.name", "not a name"),
    ("[models.scratch", '[modles.x]\nhf = "y"\n[models.scratch', "modles", "did you mean 'models'?"),
    ("[models.local]", '[models."lo cal"]', 'models."lo cal"', "not a name"),
    ('model_type = "llama"', "", "models.scratch.config.model_type", "missing"),
    ('model_type = "llama"', "model_type = 3", "models.scratch.config.model_type", "a string"),
    ('model_type = "llama"', 'model_type = "llama"\nx = nan', "models.scratch.config.x", "finite"),
    ('model_type = "llama"', 'model_type = "llama"\nx = [1979-05-27]', "models.scratch.config.x[0]", "date"),
    (
        'model_type = "llama"',
        'model_type = "llama"\nvocab_size = 9',
        "models.scratch.config.vocab_size",
        "tokenizer",
    ),
    (
        'model_type = "llama"',
        'model_type = "lama"',
        "models.scratch.config.model_type",
        "did you mean 'llama'?",
    ),
    (
        "[models.scratch.config]",
        '[models.scratch]\nport = "qwen3"\n[models.scratch.config]',
        "models.scratch.port",
        "remove the line",
    ),
    ('hf = "checkpoints/local"', 'port = "lama"', "models.local", "exactly one"),
    ('hf = "checkpoints/local"', 'hf = "x/y"', "models.local.hf", "a Hub id needs a revision"),
    (
        'hf = "checkpoints/local"',
        'hf = "checkpoints/locl"',
        "models.local.hf",
        "did you mean 'checkpoints/local'?",
    ),
    ('hf = "checkpoints/local"', 'hf = "./nothing/here"', "models.local.hf", "there is no such folder"),
    ('hf = "checkpoints/local"', 'hf = "data/items.jsonl"', "models.local.hf", "this is a file"),
    ('hf = "checkpoints/local"', 'hf = "data"', "models.local.hf", "config.json is missing"),
    (
        'hf = "checkpoints/local"',
        'hf = "x/y"\nrevision = "main"',
        "models.local.revision",
        "not a full commit",
    ),
    ('hf = "checkpoints/local"', f'hf = "data"\nrevision = "{COMMIT}"', "models.local.revision", "remove it"),
    (
        'hf = "checkpoints/local"',
        f'config = {{model_type = "x"}}\nrevision = "{COMMIT}"',
        "models.local.revision",
        "hf",
    ),
    (
        'hf = "checkpoints/local"',
        'hf = "checkpoints/local"\nport = "no"',
        "models.local.port",
        "no such file",
    ),
    (
        'hf = "checkpoints/local"',
        'hf = "checkpoints/local"\nconfig = {}',
        "models.local.config",
        "only one of",
    ),
    ('items = "data/items.jsonl"', 'items = "data/item.jsonl"', "tokenizers.titles.items", "did you mean"),
    ('items = "data/items.jsonl"', 'items = "data"', "tokenizers.titles.items", "this is a folder"),
    ('items = "data/items.jsonl"', 'hf = "data"', "tokenizers.titles.hf", "tokenizer.json"),
    (
        'items = "data/items.jsonl"',
        'items = "data/items.jsonl"\nchat_template = "x"',
        "tokenizers.titles.chat_template",
        "",
    ),
    ('learn_from = "chats"', 'learn_from = "chat"', "tokenizers.words.learn_from", "did you mean 'chats'?"),
    ('learn_from = "chats"', 'learn_from = "viewings"', "tokenizers.words.learn_from", "no text"),
    ("vocab_size = 512", "", "tokenizers.words.learn_from", "needs vocab_size"),
    ("vocab_size = 512", "vocab_size = 512.0", "tokenizers.words.vocab_size", "an integer"),
    ("vocab_size = 512", "vocab_size = true", "tokenizers.words.vocab_size", "an integer"),
    ("vocab_size = 512", "vocab_size = 100", "tokenizers.words.vocab_size", "the least is 300"),
    ('source = "data/viewings.jsonl"', "", "datasets.viewings.source", "missing"),
    ('source = "data/viewings.jsonl"', "source = []", "datasets.viewings.source", "empty"),
    ('source = "data/viewings.jsonl"', "source = 5", "datasets.viewings.source", "a string or a list"),
    (
        'source = "data/viewings.jsonl"',
        'source = "data/viewing.jsonl"',
        "datasets.viewings.source",
        "did you mean",
    ),
    (
        'source = "data/viewings.jsonl"',
        'source = "data/*.csv"',
        "datasets.viewings.source",
        "no file matches",
    ),
    (
        'source = "data/viewings.jsonl"',
        'source = "recipes/*"',
        "datasets.viewings.source",
        "not a file that ptw reads",
    ),
    ('source = "data/viewings.jsonl"', 'source = "data"', "datasets.viewings.source", "data/*.jsonl"),
    (
        'source = "data/viewings.jsonl"',
        'source = "s3://b/x.csv"',
        "datasets.viewings.source",
        "known endings",
    ),
    ('source = "data/viewings.jsonl"', 'source = "a\\u0000b"', "datasets.viewings.source", "no file matches"),
    (
        '"data/chats*.jsonl", ',
        '"data/chats*.jsonl", "nothing.jsonl", ',
        "datasets.chats.source[1]",
        "no file matches",
    ),
    ('format = "event"', 'format = "evnt"', "datasets.viewings.format", "did you mean 'event'?"),
    ("leave_out = 2", "leave_out = -1", "datasets.viewings.leave_out", "the least is 0"),
    ("leave_out = 2", 'too_long = "cut"', "datasets.viewings.too_long", "known choices"),
    ('format = "chat"', 'format = "chat"\nleave_out = 1', "datasets.chats.leave_out", "only events"),
    ('format = "chat"', 'format = "chat"\ntoo_long = "split"', "datasets.chats.too_long", "cannot be split"),
    ("viewings = 0.7", "viewings = 0", "datasets.blend.mix.viewings", "more than 0"),
    ("viewings = 0.7", "viewings = nan", "datasets.blend.mix.viewings", "a finite number"),
    ("viewings = 0.7", 'viewings = "0.7"', "datasets.blend.mix.viewings", "a finite number"),
    ("viewings = 0.7", "veiwings = 0.7", "datasets.blend.mix.veiwings", "did you mean 'viewings'?"),
    ("viewings = 0.7", "blend = 0.7", "datasets.blend.mix.blend", "can't be a part of itself"),
    (
        "chats = 3 }",
        "inner = 3 }\n[datasets.inner]\nmix = { chats = 1, viewings = 2 }",
        "datasets.blend.mix.inner",
        "inner is a mix itself; name its parts: chats, viewings",
    ),
    ("mix = { viewings = 0.7, chats = 3 }", "mix = {}", "datasets.blend.mix", "empty"),
    ("mix = { viewings = 0.7, chats = 3 }", "mix = 3", "datasets.blend.mix", "a table"),
    ("mix = { viewings = 0.7, chats = 3 }", "max = 3", "datasets.blend.max", "did you mean 'mix'?"),
    ("mix = { viewings = 0.7, chats = 3 }", "leave_out = 3", "datasets.blend.source", "missing"),
    ("chats = 3 }", 'chats = 3 }\nsource = "data/chats.jsonl"', "datasets.blend.source", "beside mix"),
    ("chats = 3 }", 'chats = 3 }\nformat = "chat"', "datasets.blend.format", "beside mix"),
    ("chats = 3 }", 'chats = 3 }\ntoo_long = "drop"', "datasets.blend.too_long", "beside mix"),
    ('dataset = "chats"', 'dataset = "blend"', "recipes.first.dataset", "the format of its part viewings"),
    ('learn_from = "chats"', 'learn_from = "blend"', "tokenizers.words.learn_from", "events has no text"),
    ("workers = 2", "workers = 0", "clusters.gpus.workers", "the least is 1"),
    ("workers = 2", "workers = 6\ntensor = 4", "clusters.gpus.workers", "set workers to 8, or lower tensor"),
    ("workers = 2", "workers = 2\nreplicas = 4", "clusters.gpus.workers", "set workers to 4"),
    ("workers = 2", "workers = 2\ntensor = 0", "clusters.gpus.tensor", "the least is 1"),
    (
        "workers = 2",
        "workers = 6\nexperts = 4",
        "clusters.gpus.workers",
        "to 8, or lower experts or replicas",
    ),
    ("workers = 2", "workers = 4\ntensor = 2\nexperts = 2", "clusters.gpus.experts", "one of the two to 1"),
    ("workers = 2", 'workers = 2\nrecompute = "yes"', "clusters.gpus.recompute", "true or false"),
    ("gpus_per_worker = 0.5", "gpus_per_worker = nan", "clusters.gpus.gpus_per_worker", "a finite number"),
    ('recipe = "own"', 'recipe = "onw"', "recipes.first.recipe", "did you mean 'own'?"),
    ('model = "scratch"', 'model = "scrtch"', "recipes.first.model", "did you mean 'scratch'?"),
    (
        'tokenizer = "words"',
        'tokenizer = "x"',
        "recipes.first.tokenizer",
        "known tokenizers: events, titles, words",
    ),
    ('tokenizer = "words"', 'tokenizer = "titles"', "recipes.first.dataset", "knows only items"),
    ('dataset = "chats"', 'dataset = "viewings"', "recipes.first.dataset", "learnt from text"),
    (
        'dataset = "chats"',
        'dataset = "chats"\neval_dataset = "x"',
        "recipes.first.eval_dataset",
        "there is no",
    ),
    ('cluster = "gpus"', 'cluster = "gpu"', "recipes.first.cluster", "did you mean 'gpus'?"),
    ("steps = 3", "stesp = 3", "recipes.first.settings.stesp", "did you mean 'steps'?"),
    ("steps = 3", 'steps = "3"', "recipes.first.settings.steps", "an integer"),
    ("steps = 3", "steps = 3.0", "recipes.first.settings.steps", "an integer"),
    ("steps = 3", "freeze = 1", "recipes.first.settings.freeze", "true or false"),
    ("steps = 3", 'schedule = "cos"', "recipes.first.settings.schedule", "'cosine'"),
    ("learning_rate = 1", "learning_rate = inf", "recipes.first.settings.learning_rate", "a finite number"),
]


@pytest.mark.parametrize(("old", "new", "key", "words"), MISTAKES)
def test_a_mistake_is_told(changed: Change, old: str, new: str, key: str, words: str) -> None:
    root = changed(old, new)
    text = (root / "workspace.toml").read_text()
    told = [problem for problem in problems(root) if problem.key == key]
    assert told, problems(root)
    assert any(words in f"{problem.message}; {problem.hint}" for problem in told), told
    for problem in told:
        assert problem.file == "workspace.toml"
        assert 1 <= problem.line <= text.count("\n") + 1
        last = key.split(".")[-1].split("[")[0].strip('"')
        if last in new:
            assert last in text.split("\n")[problem.line - 1]


def test_all_mistakes_are_told_at_once(root: Path) -> None:
    text = (root / "workspace.toml").read_text()
    text = text.replace('name = "small"', "name = 3").replace("steps = 3", "stesp = 3")
    (root / "workspace.toml").write_text(text.replace("workers = 2", "wrokers = 2"))
    found = problems(root)
    assert [problem.key for problem in found] == [
        "workspace.name",
        "clusters.gpus.wrokers",
        "recipes.first.settings.stesp",
    ]
    with pytest.raises(PtwError, match="3 problems") as raised:
        manifest.read(root)
    assert all(str(problem) in str(raised.value) for problem in found)


def test_a_setting_without_a_default_is_asked_for(root: Path) -> None:
    recipe = (root / "recipes/own.py").read_text().replace("steps: int = 10", "steps: int\n    beams: int")
    (root / "recipes/own.py").write_text(recipe)
    assert [problem.key for problem in problems(root)] == ["recipes.first.settings.beams"]


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("def train(:\n", "not Python"),
        ("x = 1\n", "has no Settings"),
        ("class Settings:\n    a: list[float] = 3\n", "a setting is int"),
        ("class Settings:\n    a: int = len('x')\n", "write the value itself"),
    ],
)
def test_a_recipe_whose_settings_cannot_be_read_is_told(root: Path, recipe: str, words: str) -> None:
    (root / "recipes/own.py").write_text(recipe)
    assert [problem.key for problem in problems(root)] == ["recipes.first.recipe"]
    assert words in problems(root)[0].hint


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"[workspace\n", "workspace.toml:1: not TOML"),
        (b'[workspace]\nname = "a"\nname = "b"\n', "workspace.toml:3: not TOML"),
        (b"[workspace]\nname =", "workspace.toml:2: not TOML"),
        (b'[workspace]\nname = "\xff"\n', "workspace.toml:2: byte 0xff is not UTF-8"),
        (b"\xef\xbb\xbf[workspace]\n", "byte order mark"),
        (b"x = " + b"[" * 5000 + b"]" * 5000, "nested"),
        (b"x" + b".x" * 500 + b" = 1", "nested"),
        (b"x = 9" + b"9" * 5000, "not TOML"),
        (b"x = 0x" + b"f" * 5000, "64 bits"),
    ],
)
def test_what_is_no_toml_is_told_with_its_line(root: Path, data: bytes, words: str) -> None:
    (root / "workspace.toml").write_bytes(data)
    with pytest.raises(PtwError, match=r"workspace\.toml") as raised:
        problems(root)
    assert words in str(raised.value)
    assert len(str(raised.value)) < 400


def test_a_missing_workspace_is_told(tmp_path: Path) -> None:
    with pytest.raises(PtwError, match="ptw init"):
        manifest.find(tmp_path)
    with pytest.raises(PtwError, match="no such file"):
        manifest.read(tmp_path)


def test_a_folder_in_place_of_the_file_is_told(tmp_path: Path) -> None:
    (tmp_path / "workspace.toml").mkdir()
    with pytest.raises(PtwError, match="this is a folder"):
        manifest.read(tmp_path)


@pytest.mark.parametrize("config", ["{", "[]", "{}", '{"model_type": 3}', "\xff"])
def test_a_model_folder_with_a_broken_config_is_told(root: Path, config: str) -> None:
    (root / "checkpoints/local/config.json").write_bytes(config.encode("latin-1"))
    assert [problem.key for problem in problems(root)] == ["models.local.hf"]
