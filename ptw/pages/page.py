"""How is a page made? One file that fetches nothing, in one style, of text that nobody needs to trust."""

import base64
import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

HERE = Path(__file__).parent
SCRIPT = HERE / "hover.js"


def rendered(template: Path, filters: Mapping[str, Callable[..., Any]], **values: Any) -> str:
    """The template, which may include what stands beside this file; every value is escaped.

    `script` is the only script that a page of the policy `script-src 'sha256-{{ script_hash }}'` runs.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, HERE]),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= filters
    script = SCRIPT.read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    shared = {"script": Markup(script), "script_hash": Markup(digest)}
    return environment.get_template(template.name).render(**shared, **values)
