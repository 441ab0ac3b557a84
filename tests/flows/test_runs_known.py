"""Whether Prefect is asked for a server: wherever anything could name one."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from flows.runs import _server_may_be_named, recent_runs


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".env", "PREFECT_API_URL=http://127.0.0.1:1/api"),
        ("pyproject.toml", "[tool.prefect.api]\nurl = 'http://127.0.0.1:1/api'"),
        ("prefect.toml", "[api]\nurl = 'http://127.0.0.1:1/api'"),
        ("home/profiles.toml", "active = 'local'"),
    ],
)
def test_files_that_may_name_one(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("PREFECT_API_URL", "PREFECT_PROFILE", "PREFECT_PROFILES_PATH"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.delitem(sys.modules, "prefect", raising=False)
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'birds'")
    assert not _server_may_be_named()
    assert "no PREFECT_API_URL is set" in recent_runs(str(tmp_path)).source
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_text(text)
    assert _server_may_be_named()
    (tmp_path / name).unlink()
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    assert _server_may_be_named()
