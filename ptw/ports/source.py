"""Where do a checkpoint's files lie: in a local folder, or in a snapshot of the Hub?"""

from __future__ import annotations

from pathlib import Path

from ptw.errors import PtwError

FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def resolve(hf: str, revision: str | None, root: Path) -> Path:
    """The folder of a checkpoint. `hf` is a folder (relative to `root`) or a Hub id, which needs a revision.

    PtwError if neither the folder nor the snapshot is there.
    """
    folder = root / hf
    if folder.is_dir():
        return folder
    if revision is None:
        of_a_run = hf.startswith("runs/")
        hint = (
            "train the recipe of that run" if of_a_run else "a Hub id also needs `revision`, the full commit"
        )
        raise PtwError(f"workspace.toml: hf = {hf!r}: there is no folder {folder}; {hint}")
    return _snapshot(hf, revision)


def held(hf: str, revision: str | None, root: Path) -> Path | None:
    """The folder of a checkpoint that is on this machine already; nothing is fetched."""
    from huggingface_hub import snapshot_download

    if (root / hf).is_dir():
        return root / hf
    try:
        return Path(snapshot_download(hf, revision=revision, allow_patterns=FILES, local_files_only=True))
    except (OSError, ValueError):  # not there, or no id of the Hub
        return None


def _snapshot(hf: str, revision: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(hf, revision=revision, allow_patterns=FILES))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        reason = str(error).strip().splitlines()[0]
        raise PtwError(
            f"workspace.toml: hf = {hf!r} at revision {revision}: {reason} "
            "(is the id right, is the Hub reachable, is HF_TOKEN set for a gated model?)"
        ) from error
