"""`ttame doctor`: what is right, what is not, and what to do."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from prefect.settings import PREFECT_API_URL, PREFECT_HOME, temporary_settings
from stores import Store

from flows import doctor
from tasks import logs

Run = Callable[..., subprocess.CompletedProcess]


def test_a_sound_machine(ttame: Run, server: dict[str, str], tmp_path: Path) -> None:
    result = ttame("doctor")
    assert result.returncode == 0, result.stdout
    assert "✗" not in result.stdout
    said = {line.split()[1]: line for line in result.stdout.splitlines() if line[0] == "✓"}
    assert said.keys() >= {"torch", "torchvision", "device", "workspace", "prefect"}
    assert str(tmp_path / "workspace") in said["workspace"]
    assert server["PREFECT_API_URL"] in result.stdout
    assert not (tmp_path / "workspace").exists()


def test_all_that_is_broken_is_said_at_once(tmp_path: Path) -> None:
    broken = tmp_path / "beside/torchvision/__init__.py"
    broken.parent.mkdir(parents=True)
    broken.write_text("raise RuntimeError('operator torchvision::nms does not exist')")
    (tmp_path / "file").touch()
    result = subprocess.run(
        [sys.executable, "-m", "flows", "doctor", "--workspace", tmp_path / "file"],
        env=os.environ
        | {
            "PYTHONPATH": f"{broken.parents[1]}:{Path.cwd()}",
            "PREFECT_API_URL": "http://127.0.0.1:9/api",
            "PREFECT_HOME": str(tmp_path),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert result.returncode == 1, result.stdout + result.stderr
    assert "Traceback" not in result.stderr
    for words in (
        "torchvision::nms does not exist",
        "pip install --force-reinstall torch torchvision",
        "file is a file",
        "http://127.0.0.1:9/api does not answer",
        "prefect server start",
    ):
        assert words in result.stdout
    assert "force-reinstall timm" not in result.stdout  # it only cannot do without torchvision


def test_packages_that_are_lacking_or_too_old() -> None:
    assert doctor._lacking(Requirement("torch>=2.0")) == ""
    assert doctor._lacking(Requirement("torch<2.0")) == "torch<2.0"
    assert doctor._lacking(Requirement("no-such-package>=1")) == "no-such-package>=1"
    assert not doctor._asked_for(Requirement("s3fs; extra == 's3'"), "")
    assert doctor._asked_for(Requirement("s3fs; extra == 's3'"), "s3")


def test_a_disk_that_is_nearly_full(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "ROOM", 2**60)
    *_, disk = doctor.place(str(tmp_path))
    assert (disk.about, disk.state) == ("disk", "odd")
    assert "make room" in disk.advice


def test_a_bucket_is_tried_and_left_as_it_was(s3: Store) -> None:
    (found,) = doctor.place(s3.url)
    assert found.state == "right"
    assert s3.content() == {}
    s3.client.delete_bucket(Bucket=s3.bucket)
    about = {f.about: f for f in doctor.examine(s3.url)}
    assert about["workspace"].state == "broken"
    assert "no bucket" in about["workspace"].advice


def test_a_temporary_server_needs_a_folder() -> None:
    with temporary_settings({PREFECT_HOME: "/proc/closed"}, restore_defaults={PREFECT_API_URL}):
        (found,) = doctor.prefect()
    assert found.state == "broken"
    assert "PREFECT_HOME" in found.advice


def test_a_temporary_server_needs_its_records(tmp_path: Path) -> None:
    with temporary_settings({PREFECT_HOME: str(tmp_path)}, restore_defaults={PREFECT_API_URL}):
        with closing(sqlite3.connect(tmp_path / "prefect.db")) as records:
            records.execute("CREATE TABLE runs (name TEXT)")
        assert doctor.temporary_server().state == "right"
        (tmp_path / "prefect.db").write_text("this is no database")
        found = doctor.temporary_server()
    assert found.state == "broken"
    assert "file is not a database" in found.words
    assert "move that file away" in found.advice


def test_a_temporary_server_needs_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: object, timeout: float) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(doctor.socket, "create_connection", refuse)
    found = doctor.temporary_server()
    assert found.state == "broken"
    assert "127.0.0.1" in found.words
    assert "Operation not permitted" in found.words


def test_a_temporary_server_is_reached_beside_a_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "intern.example")
    monkeypatch.setenv("no_proxy", "")
    for name in ("TTAME_QUIET", "TTAME_LOG_FORMAT", "PREFECT_LOGGING_HANDLERS_CONSOLE_CLASS"):
        monkeypatch.setenv(name, "")
    logs.choose(quiet=False, log_format="text")
    assert os.environ["NO_PROXY"] == "intern.example,127.0.0.1,localhost"
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert urllib.request.proxy_bypass("127.0.0.1:8123")


def test_sizes_for_people() -> None:
    sizes = (0, 1023, 1024, 150 * 2**20, 3.4 * 2**30, 2**45)
    assert [doctor.size(s) for s in sizes] == [
        "0 B", "1023 B", "1.0 KiB", "150 MiB", "3.4 GiB", "32.0 TiB",
    ]  # fmt: skip
