"""What forked processes have from the start: imports, and what a process works out once."""

from __future__ import annotations

import os
import pkgutil
from importlib import import_module

from worked_out import FAMILIES

import flows
from ttame_core.imports import quickly
from ttame_core.report.assets import template

# Imported where it is needed, and slow at it.
SLOW = (
    "captum.attr",
    "fastapi",
    "matplotlib.backends.backend_svg",
    "pytorch_grad_cam",
    "timm",
    "ttame_core.metrics.contours.compiled",
)

os.environ["PYTHONPATH"] = os.environ["PYTHONPATH"].partition(os.pathsep)[2]  # without the tests
with quickly():
    for name in (*(f"flows.{m.name}" for m in pkgutil.iter_modules(flows.__path__)), *SLOW):
        import_module(name)
for known in FAMILIES:
    known()
for page in ("page.html", "images.html"):
    template(page)
