"""What a workspace declares is read whole and cannot be changed."""

from dataclasses import FrozenInstanceError
from pathlib import Path

import pytest

from ptw.workspace import manifest


def test_every_table_becomes_an_entry(root: Path) -> None:
    workspace = manifest.read(root)
    assert workspace.root == root.resolve()
    assert workspace.name == "small"
    assert workspace.models["scratch"].config == {"model_type": "llama"}
    assert workspace.models["local"] == manifest.ModelEntry("local", hf="checkpoints/local")
    assert workspace.tokenizers["words"].vocab_size == 512
    assert workspace.datasets["viewings"].source == ("data/viewings.jsonl",)
    assert workspace.datasets["viewings"].leave_out == 2
    assert workspace.datasets["chats"].source == ("data/chats*.jsonl", "s3://bucket/chats/*.jsonl.zst")
    assert workspace.datasets["chats"].too_long == "error"
    assert [(part.dataset.name, part.weight) for part in workspace.datasets["blend"].parts] == [
        ("viewings", 0.7),
        ("chats", 3),
    ]
    assert [part.dataset for part in workspace.datasets["chats"].parts] == [workspace.datasets["chats"]]
    assert workspace.clusters["gpus"].gpus_per_worker == 0.5
    assert workspace.recipes["first"].eval_dataset is None
    assert workspace.recipes["first"].settings == {"steps": 3, "learning_rate": 1}


def test_the_nearest_workspace_upwards_is_found(root: Path) -> None:
    inner = root / "data" / "deep"
    inner.mkdir()
    assert manifest.find(inner) == root
    assert manifest.find(root) == root


def test_entries_are_frozen(root: Path) -> None:
    with pytest.raises(FrozenInstanceError):
        manifest.read(root).name = "other"  # type: ignore[misc]


def test_defaults_of_the_schema_are_those_of_the_entries() -> None:
    import json

    from ptw.workspace.schema import schema_text

    defs = json.loads(schema_text())["$defs"]
    entries = {
        "model": manifest.ModelEntry("x"),
        "tokenizer": manifest.TokenizerEntry("x"),
        "dataset": manifest.DatasetEntry("x", (), "chat"),
        "cluster": manifest.ClusterEntry("x"),
        "recipe": manifest.RecipeEntry("x", "r", "m", "t", "d"),
    }
    for kind, entry in entries.items():
        fields = set(entry.__dataclass_fields__) - {"name"}
        assert fields == set(defs[kind]["properties"])
        for key, part in defs[kind]["properties"].items():
            assert getattr(entry, key) == part["default"] if "default" in part else True
