"""Imports without garbage collections."""

from __future__ import annotations

import gc
import subprocess
import sys
from pathlib import Path

import pytest

from ttame_core import spec
from ttame_core.backbones.models import create_model
from ttame_core.errors import UserError
from ttame_core.imports import library, quickly


def test_collections_pause_while_something_is_imported() -> None:
    assert gc.isenabled()
    with quickly():
        with quickly():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()
    with pytest.raises(ImportError), quickly():
        import nothing_of_that_name  # noqa: F401
    assert gc.isenabled()


def test_a_broken_library_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("raise RuntimeError('operator nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    for _ in range(2):  # the second time as the first
        with pytest.raises(UserError, match=r"broken .*\(operator nms .*\): run `ttame doctor`"):
            library("broken")


def test_no_classifier_is_made_without_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)  # as where it cannot be imported
    for model in ("resnet18", "torchvision/resnet18", "nets:make"):
        with pytest.raises(UserError, match="timm cannot be imported"):
            create_model(spec.Backbone(model=model, fit={}, num_classes=2))


def test_nothing_is_collected_when_the_process_ends() -> None:
    code = """
import atexit, gc
from ttame_core.imports import quickly
atexit.register(lambda: print(gc.get_freeze_count()))  # the first that is registered comes last
for _ in range(2):
    with quickly():
        pass
print(gc.get_freeze_count())
"""
    before, after = subprocess.check_output([sys.executable, "-c", code], text=True).split()
    assert before == "0" < after
