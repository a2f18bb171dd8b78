"""A model's table comes into workspace.toml, and nothing else of it changes."""

import tomllib

import pytest

from ptw.errors import PtwError
from ptw.workspace.declare import refuse_known, with_model

TEXT = """\
# ours
[workspace]
name = "films"  # kept

[models.small.config]
model_type = "llama"

# the chats of last year
[datasets.chats]
source = "chats.jsonl"
format = "chat"
"""


def test_it_stands_after_the_other_models_and_all_else_is_kept() -> None:
    after = with_model(TEXT, "large", {"hf": "org/large", "revision": "0" * 40})
    table = f'[models.large]\nhf = "org/large"\nrevision = "{"0" * 40}"\n'
    assert after == TEXT.replace("# the chats", f"{table}\n# the chats")
    assert list(tomllib.loads(after)["models"]) == ["small", "large"]


@pytest.mark.parametrize("text", ["", '[workspace]\nname = "a"', '[workspace]\nname = "a"\n', TEXT])
def test_every_line_that_was_there_is_there(text: str) -> None:
    after = with_model(text, "new", {"config": {"model_type": "mistral"}})
    assert tomllib.loads(after)["models"]["new"] == {"config": {"model_type": "mistral"}}
    kept = iter(after.splitlines())
    assert all(line in kept for line in text.splitlines())  # in their order


def test_windows_newlines_stay() -> None:
    after = with_model(TEXT.replace("\n", "\r\n"), "new", {"hf": "folder"})
    assert "\n" not in after.replace("\r\n", "")
    assert tomllib.loads(after)["models"]["new"] == {"hf": "folder"}


def test_odd_values_are_written_as_toml_reads_them() -> None:
    values = {"hf": 'a "quoted" \\ path é', "config": {"a.b": 1, "flag": True, "list": [1.5, "x"]}}
    assert tomllib.loads(with_model(TEXT, "n.1", values))["models"]["n.1"] == values


def test_a_known_name_and_no_name_are_refused() -> None:
    with pytest.raises(PtwError, match=r"models\.small"):
        refuse_known(tomllib.loads(TEXT), "small")
    with pytest.raises(PtwError, match="no name"):
        with_model(TEXT, "not a name", {})
