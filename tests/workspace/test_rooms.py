"""A room's files are found, loaded by path, and read without being run."""

import os
import sys
from pathlib import Path

import pytest

from ptw.errors import PtwError
from ptw.workspace import rooms
from ptw.workspace.eject import eject


@pytest.fixture
def stocked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A stock of ptw's own, with one file in each room."""
    for room in rooms.ROOMS:
        (tmp_path / "stock" / room).mkdir(parents=True)
        (tmp_path / "stock" / room / "one.py").write_text("whose = 'stock'\n")
    monkeypatch.setattr(rooms, "stock", lambda room: tmp_path / "stock" / room)
    return tmp_path / "stock"


@pytest.mark.parametrize("room", rooms.ROOMS)
def test_the_clone_is_the_stock(room: str, repository: Path) -> None:
    assert rooms.stock(room) == repository / room


@pytest.mark.parametrize(("room", "whose"), [("models", "own"), ("recipes", "own"), ("verifiers", "stock")])
def test_a_workspace_replaces_files_but_no_verifier(
    stocked: Path, tmp_path: Path, room: str, whose: str
) -> None:
    (tmp_path / room).mkdir()
    (tmp_path / room / "one.py").write_text("whose = 'own'\n")
    (tmp_path / room / "two.py").write_text("whose = 'own'\n")
    (tmp_path / room / "_private.py").write_text("")
    (tmp_path / room / "README.md").write_text("")
    found = rooms.files(tmp_path, room)
    assert list(found) == ["one", "two"]
    assert rooms.load(found["one"]).whose == whose
    assert list(rooms.files(None, room)) == ["one"]


def test_a_changed_file_is_loaded_anew_and_an_unchanged_one_is_not(tmp_path: Path) -> None:
    file = tmp_path / "port.py"
    file.write_text("value = 1\n")
    first = rooms.load(file)
    assert rooms.load(file) is first
    stamp = file.stat().st_mtime_ns
    file.write_text("value = 2\n")  # of the same size, within the same second
    os.utime(file, ns=(stamp + 1, stamp + 1))
    assert rooms.load(file).value == 2
    assert not (tmp_path / "__pycache__").exists()


def test_rooms_with_the_same_file_names_do_not_meet(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "random.py").write_text(
            "from dataclasses import dataclass\n@dataclass(frozen=True)\nclass Settings:\n    x: 'int' = 1\n"
        )
    one, other = (rooms.load(tmp_path / folder / "random.py") for folder in ("a", "b"))
    assert one.Settings is not other.Settings
    assert sys.modules["random"].__name__ == "random"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("x = 1\ndef (\n", r"port\.py:2: cannot be loaded: SyntaxError"),
        ("x = 1\nimport no_such_module\n", r"port\.py:2: .*no_such_module"),
        ("def f():\n    return 1 / 0\nf()\n", r"port\.py:2: .*ZeroDivisionError"),
        ("\0", "cannot be loaded"),
    ],
)
def test_a_file_that_cannot_be_loaded_is_told_with_its_line(tmp_path: Path, source: str, words: str) -> None:
    (tmp_path / "port.py").write_text(source)
    before = set(sys.modules)
    with pytest.raises(PtwError, match=words):
        rooms.load(tmp_path / "port.py")
    assert set(sys.modules) == before


def test_a_missing_file_is_told(tmp_path: Path) -> None:
    with pytest.raises(PtwError, match="cannot be read"):
        rooms.load(tmp_path / "nothing.py")


SETTINGS = """
import torch_that_is_not_there
class Settings:
    '''What one may choose.'''
    steps: int = 10
    rate: float = -1e-3
    kind: Literal["a", "b"] | None = None
    width: int | float | None = 2
    on: bool = True
    name: str
    layers: Literal["all"] | list[str] = "all"
    widths: list[int] | None = None

    def doubled(self): ...
"""


def test_settings_are_read_without_running_the_file(tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(SETTINGS)
    fields = rooms.settings_fields(tmp_path / "recipe.py")
    assert {name: field.default for name, field in fields.items()} == {
        **{"steps": 10, "rate": -1e-3, "kind": None, "width": 2, "on": True, "name": None},
        "layers": "all",
        "widths": None,
    }
    assert [name for name, field in fields.items() if field.required] == ["name"]
    assert fields["width"].type == "int | float | None"
    assert fields["kind"].choices == ("a", "b")


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("steps", "7", 7),
        ("rate", "2e-5", 2e-5),
        ("rate", "3", 3),
        ("kind", "b", "b"),
        ("kind", "none", None),
        ("on", "false", False),
        ("name", "7", "7"),
        ("name", "true", "true"),
        ("name", "", ""),
        ("layers", "all", "all"),
        ("layers", "q_proj,v_proj", ["q_proj", "v_proj"]),
        ("layers", "1,2", ["1", "2"]),
        ("widths", "64", [64]),
        ("widths", "64,128", [64, 128]),
        ("widths", "none", None),
    ],
)
def test_a_text_becomes_the_settings_value(tmp_path: Path, name: str, text: str, value: object) -> None:
    (tmp_path / "recipe.py").write_text(SETTINGS)
    parsed = rooms.settings_fields(tmp_path / "recipe.py")[name].parse(text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("steps", "7.0"),
        ("steps", "true"),
        ("rate", "nan"),
        ("kind", "c"),
        ("on", "1"),
        ("steps", "none"),
        ("layers", ""),
        ("widths", "64,"),
        ("widths", "64,x"),
    ],
)
def test_a_wrong_text_is_refused(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / "recipe.py").write_text(SETTINGS)
    with pytest.raises(ValueError, match="it must be"):
        rooms.settings_fields(tmp_path / "recipe.py")[name].parse(text)


@pytest.mark.parametrize("value", [[], "some", ["q", 1], [""], 3])
def test_a_list_holds_strings(tmp_path: Path, value: object) -> None:
    (tmp_path / "recipe.py").write_text(SETTINGS)
    field = rooms.settings_fields(tmp_path / "recipe.py")["layers"]
    assert field.fault(value) == "it must be a list of one or more strings or 'all'"
    assert field.fault(["q", "v"]) is None


@pytest.mark.parametrize("value", [[], 3, [3, "q"], [True], [1.0]])
def test_a_list_holds_integers(tmp_path: Path, value: object) -> None:
    (tmp_path / "recipe.py").write_text(SETTINGS)
    field = rooms.settings_fields(tmp_path / "recipe.py")["widths"]
    assert field.fault(value) == "it must be a list of one or more integers"
    assert field.fault([64, 32]) is None


INHERITS = """
from ptw.train.adapted import {} as Adapters
class Settings({}):
    lora_rank: int = 3
"""


def test_fields_that_a_recipe_takes_over_are_read_too(tmp_path: Path) -> None:
    (tmp_path / "recipe.py").write_text(INHERITS.format("AdapterSettings", "Adapters"))
    fields = rooms.settings_fields(tmp_path / "recipe.py")
    assert fields["adapter"].choices == ("none", "lora", "qlora")
    assert fields["lora_rank"].default == 3  # its own goes first


@pytest.mark.parametrize(
    ("imported", "base", "words"),
    [
        ("AdapterSettings", "Others", r"recipe\.py:3: Settings takes fields from Others, which is not found"),
        ("AdapterSetting", "Adapters", r"adapted\.py: has no AdapterSetting"),
    ],
)
def test_fields_from_nowhere_are_told(tmp_path: Path, imported: str, base: str, words: str) -> None:
    (tmp_path / "recipe.py").write_text(INHERITS.format(imported, base))
    with pytest.raises(PtwError, match=words):
        rooms.settings_fields(tmp_path / "recipe.py")


def test_eject_copies_a_file_that_then_wins(stocked: Path, root: Path) -> None:
    file = eject(root, "recipes/one")
    assert file.read_text() == "whose = 'stock'\n"
    assert rooms.files(root, "recipes")["one"] == file
    assert sorted(path.name for path in file.parent.iterdir()) == ["one.py", "own.py"]
    file.write_text("mine\n")
    with pytest.raises(PtwError, match="a file already"):
        eject(root, "recipes/one.py")
    assert file.read_text() == "mine\n"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("verifiers/one", "cannot be changed"),
        ("recipes/on", "did you mean 'one'"),
        ("one", "name a room"),
        ("nothing/one", "name a room"),
        ("recipes/../one", "brings no such file"),
    ],
)
def test_what_cannot_be_ejected_is_told(stocked: Path, root: Path, name: str, words: str) -> None:
    with pytest.raises(PtwError, match=words):
        eject(root, name)
