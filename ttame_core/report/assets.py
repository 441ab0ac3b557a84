"""Templates, scripts and styles of the pages."""

from __future__ import annotations

import base64
import hashlib
from functools import cache
from importlib import resources

import jinja2


@cache
def template(name: str) -> jinja2.Template:
    """Return a page's template, such as `page.html`, which escapes all that data say."""
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    return environment.from_string(asset(name))


def asset(name: str) -> str:
    """Return the text of a file of this package, such as `page.css`."""
    return resources.files("ttame_core.report").joinpath(name).read_text("utf-8")


def script_hash(script: str) -> str:
    """Return the hash by which a page's Content-Security-Policy allows its one script to run."""
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
