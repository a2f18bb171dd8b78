"""How does a run's model leave the workspace, for plain transformers and vLLM?"""

import shutil
import tempfile
from pathlib import Path

from ptw.errors import PtwError
from ptw.runs.open import run_tokenizer
from ptw.runs.record import ADAPTER, RunRecord, model_folder, open_run
from ptw.tokens.declared import extended
from ptw.workspace.manifest import Workspace


def export_run(workspace: Workspace, name: str, folder: Path, adapter: bool = False) -> Path:
    """A copy of the run's model and tokenizer in a new folder, which appears whole or not at all.

    Items that `ptw vocab extend` has added to the model's vocabularies since go with it. adapter: only what
    the run taught a frozen base, for PEFT and vLLM to load onto that. PtwError if the tokenizer is not the
    run's any more.
    """
    record = open_run(workspace.root, name)
    source = adapter_folder(record) if adapter else model_folder(record)
    demand_free(folder)
    own = run_tokenizer(record, model_folder(record))
    newer = extended(workspace, own)
    aside: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        shutil.copytree(source, aside, dirs_exist_ok=True)
        if newer is not own and not adapter:
            newer.save(aside)
        aside.chmod(0o755)
        aside.replace(folder)
    except (OSError, shutil.Error) as error:
        raise PtwError(f"{folder}: cannot be written: {error}; make room, or name another folder") from error
    finally:
        if aside is not None:
            shutil.rmtree(aside, ignore_errors=True)
    return folder


def demand_free(folder: Path) -> None:
    """PtwError where something would be overwritten."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise PtwError(f"{folder}: there is something already; name a new folder")


def adapter_folder(record: RunRecord) -> Path:
    """The run's adapter in PEFT's format; PtwError while it has none, and where it trained none."""
    folder = model_folder(record).with_name(ADAPTER)
    if not folder.is_dir():
        raise PtwError(
            f"run {record.name} has no adapter, for all of its model learnt; "
            "export it without --adapter, or train with adapter = 'lora'"
        )
    return folder
