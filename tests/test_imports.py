"""Imports without garbage collections."""

from __future__ import annotations

import gc

import pytest

from ttame_core.imports import quickly


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
