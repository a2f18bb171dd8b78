"""What of this process's environment does another one get? Paths and settings, never a credential."""

from __future__ import annotations

import os
import re
from collections.abc import Collection

PLAIN = re.compile(
    r"PATH|HOME|USER|LOGNAME|SHELL|TERM|LANG|LC_[A-Z]+|TZ|TMPDIR|TEMP|TMP|VIRTUAL_ENV|PYTHONPATH"
    r"|XDG_(CACHE|CONFIG|DATA|STATE)_HOME|HF_HOME|HF_HUB_OFFLINE|HF_HUB_CACHE|TRANSFORMERS_CACHE"
    r"|OMP_NUM_THREADS|CUDA_VISIBLE_DEVICES|LD_LIBRARY_PATH|SSL_CERT_FILE|SSL_CERT_DIR|GIT_(AUTHOR|COMMITTER)_\w+"
)
SECRET = re.compile(r"KEY|TOKEN|SECRET|PASS|CREDENTIAL|AUTH", re.IGNORECASE)
FORMS = re.compile(  # of keys as their issuers write them, wherever they come from
    r"\b(?:sk-[A-Za-z0-9_-]{16,}|hf_[A-Za-z0-9]{16,}|gh[pousr]_[A-Za-z0-9]{20,}|AKIA[A-Z0-9]{16}|AIza[A-Za-z0-9_-]{30,}"
    r"|xox[abp]-[A-Za-z0-9-]{10,}|eyJ[A-Za-z0-9_-]{20,}\.[A-Za-z0-9_.-]{20,})"
)
SHORTEST = 8  # characters of a value that is looked for: shorter ones are words
HIDDEN = "[redacted]"


def clean(names: Collection[str] = ()) -> dict[str, str]:
    """What is plain, and the variables of these names."""
    return {name: value for name, value in os.environ.items() if PLAIN.fullmatch(name) or name in names}


def redacted(text: str) -> str:
    """Without this environment's secrets, and without whatever has the form of one."""
    for name, value in os.environ.items():
        if SECRET.search(name) and len(value) >= SHORTEST:
            text = text.replace(value, HIDDEN)
    return FORMS.sub(HIDDEN, text)
