"""Credentials stay out of addresses; what is missing is said in one sentence."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import duckdb
import pytest

from ttame_core.errors import UserError
from ttame_core.lake import Lake
from ttame_core.spec import Dataset
from ttame_core.storage import file_system, temporary_folder, without_password


@pytest.mark.parametrize(
    "place",
    [
        "s3://AKIAKEY:hushhush@bucket/lake",
        "s3://hushhush@bucket",
        "gs://token:hushhush@bucket/lake",
        "s3://bucket/lake?secret=hushhush",
        "https://user:hushhush@store.example.org/bucket",
        "simplecache::s3://user:hushhush@bucket/lake",
    ],
)
def test_credentials_in_an_address_are_refused_and_not_repeated(place: str) -> None:
    for use in (Lake, lambda p: Dataset(name="d", source={"kind": "folder", "path": p})):
        with pytest.raises(UserError, match="leave them out") as refused:
            use(place)
        assert "hushhush" not in str(refused.value)
        assert "\n" not in str(refused.value)


def test_a_password_is_not_printed() -> None:
    said = "http://me:hushhush@10.0.0.1:4200/api does not answer"
    assert without_password(said) == "http://10.0.0.1:4200/api does not answer"


@pytest.mark.parametrize("place", ["s3://bucket/a@b", "/home/me@work/x?y=z", "relative@x/y"])
def test_other_signs_are_no_credentials(place: str) -> None:
    Dataset(name="d", source={"kind": "folder", "path": place})


@pytest.mark.parametrize(
    ("place", "package", "extra"),
    [("s3://bucket/lake", "s3fs", "s3"), ("gs://bucket/lake", "gcsfs", "gcs")],
)
def test_a_missing_package_is_named(
    place: str, package: str, extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = sys.modules["fsspec.registry"]._registry
    monkeypatch.delitem(loaded, place.split(":")[0], raising=False)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(UserError, match=rf"pip install 'ttame\[{extra}\]'"):
        file_system(place)


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        duckdb.IOException('Could not write to file "x": No space left on device'),
        FileNotFoundError(errno.ENOENT, "No usable temporary directory found in ['/tmp']"),
    ],
)
def test_no_room_for_temporary_files_is_one_sentence(error: Exception) -> None:
    folders: list[Path] = []

    def use() -> None:
        with temporary_folder() as folder:
            folders.append(folder)
            raise error

    with pytest.raises(UserError, match=r"no room for temporary files .* TMPDIR"):
        use()
    assert not folders[0].exists()


def test_other_errors_pass_through_a_temporary_folder() -> None:
    for error in (UserError("No space left on device"), ValueError("x"), OSError(errno.EIO, "x")):
        raised = pytest.raises(type(error))
        with raised as info, temporary_folder():
            raise error
        assert info.value is error
