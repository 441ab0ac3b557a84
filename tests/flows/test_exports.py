"""An audit in MLflow, and as a folder for Hugging Face `datasets`, read back with both."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from mlflow import MlflowClient
from PIL import Image
from typer.testing import CliRunner, Result

from flows.cli import app
from flows.cli.heads import explainer_to_export
from ttame_core.audits.specification import complete, open_spec
from ttame_core.errors import UserError
from ttame_core.exports import huggingface as map_dataset
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import run_query
from ttame_core.spec import AuditSpec
from ttame_core.stages.provenance import Provenance

EXPLAINERS = ["center", "random", "gradcam"]  # of the audit `audited`


def _run(audited: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(app, [*arguments, "--workspace", str(audited / "workspace")])
    if isinstance(result.exception, UserError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result


def test_an_audit_in_mlflow(audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where MLflow puts files
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    said = _run(audited, "export-mlflow", str(audited / "audit.yaml"), "--to", uri).output
    assert "4 runs in the experiment small" in said
    client = MlflowClient(uri)
    experiment = client.get_experiment_by_name("small")
    assert experiment
    runs = client.search_runs([experiment.experiment_id])
    (whole,) = [run for run in runs if "mlflow.parentRunId" not in run.data.tags]
    parts = {run.data.params["explainer.name"]: run for run in runs if run is not whole}
    assert set(parts) == set(EXPLAINERS)
    lake = Lake(audited / "workspace")
    board = run_query(lake, "FROM leaderboard").to_pylist()
    assert len(board) > 10
    for row in board:
        name = row["metric"].replace("@", "_at_")
        for run in parts.values() if row["explainer"] == "-" else [parts[row["explainer"]]]:
            assert run.data.metrics[name] == pytest.approx(row["value"])
            assert run.data.metrics[f"{name}.low"] == pytest.approx(row["ci_low"])
    one = parts["gradcam"]
    assert one.info.status == whole.info.status == "FINISHED"
    assert one.data.tags["mlflow.parentRunId"] == whole.info.run_id
    assert one.data.params["backbone.model"] == "resnet10t"
    assert whole.data.params["dataset.name"] == "drawn"
    report = Path(client.download_artifacts(whole.info.run_id, "report.html", str(tmp_path)))
    (kept,) = (audited / "workspace/audits/small").glob("*/report.html")
    assert report.read_bytes() == kept.read_bytes()

    again = _run(audited, "export-mlflow", "small@latest", "--to", uri).output
    assert "is in MLflow already" in again
    client.set_terminated(whole.info.run_id, "FAILED")  # as if it had been cut short
    assert "4 runs" in _run(audited, "export-mlflow", "small", "--to", uri).output
    assert len(client.search_runs([experiment.experiment_id])) == 4


@pytest.mark.parametrize(
    ("audit", "words"),
    [
        ("smal", "has no audit smal; it has small. Did you mean small?"),
        ("small@previous", "has no audit small@previous"),
        ("small/20010101T000000Z", "has no audit small/2001"),
    ],
)
def test_no_such_audit(audited: Path, audit: str, words: str) -> None:
    with pytest.raises(UserError) as told:
        _run(audited, "export-mlflow", audit, "--to", "sqlite://")
    assert words in str(told.value)


def test_mlflow_away(audited: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(UserError, match=r"^MLflow says: .*failed with exception") as told:
        _run(audited, "export-mlflow", "small", "--to", "http://someone:secret@127.0.0.1:9")
    assert "secret" not in str(told.value)
    assert "\n" not in str(told.value)


def test_classes_of_one_name_are_told_apart() -> None:
    assert map_dataset._distinct(["crane", "teal", "crane"]) == ["crane (0)", "teal", "crane (2)"]


def test_an_audit_as_a_folder_for_datasets(
    audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    from datasets import load_dataset

    folder = tmp_path / "export"
    spec = str(audited / "audit.yaml")
    _run(audited, "export-dataset", spec, str(folder))
    data = load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
    assert list(data) == ["test"]
    rows = {row["key"]: row for row in data["test"]}
    lake = Lake(audited / "workspace")
    maps = run_query(lake, "FROM maps").to_pylist()
    assert sum(len(row["explanations"]) for row in rows.values()) == len(maps) == 3 * 16
    for found in maps:
        row = rows[found["key"]]
        (own,) = [e for e in row["explanations"] if e["explainer"] == found["explainer"]]
        heat = np.array(found["map"]).reshape(found["height"], found["width"])
        assert own["map"].size == (found["width"], found["height"])
        assert np.abs(np.asarray(own["map"]) / 255 - heat).max() <= 0.5 / 255 + 1e-6
        assert own["probability"] == pytest.approx(found["probability"])
        assert (row["label"], own["target"]) == (found["label"], found["target"])
    values = run_query(lake, "FROM metric_values WHERE explainer <> '-'").to_pylist()
    assert values
    for value in values:
        (own,) = [
            e for e in rows[value["key"]]["explanations"] if e["explainer"] == value["explainer"]
        ]
        assert own["scores"][value["metric"]] == pytest.approx(value["value"], rel=1e-5)
    one = rows[maps[0]["key"]]
    assert isinstance(one["image"], Image.Image)
    assert one["image"].size == (64, 64)
    # Of 64 pixels resized to 80, the middle 64 are looked at.
    assert one["explanations"][0]["view"] == pytest.approx(
        {"x0": 6.4, "y0": 6.4, "x1": 57.6, "y1": 57.6}
    )
    boxes = run_query(lake, f"FROM boxes WHERE key = '{maps[0]['key']}'").to_pylist()
    assert [b["x0"] for b in one["boxes"]] == pytest.approx([b["x0"] for b in boxes])
    stored = pq.read_table(next((folder / "data").glob("*.parquet")))["image"][0].as_py()["bytes"]
    assert Image.open(io.BytesIO(stored)).size == (64, 64)  # as it was, not encoded again

    # Done already: nothing is written.
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    _run(audited, "export-dataset", spec, str(folder))
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/letter.txt").write_text("dear")
    with pytest.raises(UserError, match="holds something else"):
        _run(audited, "export-dataset", spec, str(tmp_path / "mine"))
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["letter.txt"]


def test_an_export_cut_short_is_no_folder_and_goes_on(
    audited: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lake = Lake(audited / "workspace")
    provenance = Provenance(open_spec(audited / "audit.yaml"), lake)
    names: list[str] = []

    def stop(name: str) -> None:
        names.append(name)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        map_dataset.export_dataset(provenance, tmp_path / "export", stop)
    assert not (tmp_path / "export").exists()
    making = Lake(tmp_path / ".export.unfinished")
    schema = pa.schema([("key", pa.string())])
    making.write_parquet("data/test-00000-of-00009.parquet", [], schema, "another audit")
    again: list[str] = []
    map_dataset.export_dataset(provenance, tmp_path / "export", again.append)
    assert len(names) == 1
    assert names + again == [
        "data/test-00000-of-00002.parquet",
        "data/test-00001-of-00002.parquet",
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["export"]
    files = sorted(p.name for p in (tmp_path / "export").rglob("*") if p.is_file())
    assert files == ["README.md", *(Path(name).name for name in names + again)]


@pytest.mark.parametrize("foreign", ["data/mine.txt", "data/test-00000-of-00009.parquet", "mine"])
def test_what_is_of_others_in_the_folder_of_an_export_stays(
    foreign: str, audited: Path, tmp_path: Path
) -> None:
    provenance = Provenance(open_spec(audited / "audit.yaml"), Lake(audited / "workspace"))
    mine = tmp_path / ".export.unfinished" / foreign
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    with pytest.raises(UserError, match=f"{foreign} is in the way"):
        map_dataset.export_dataset(provenance, tmp_path / "export")
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == [mine]


def test_an_export_is_not_written_through_a_link(audited: Path, tmp_path: Path) -> None:
    provenance = Provenance(open_spec(audited / "audit.yaml"), Lake(audited / "workspace"))
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / ".export.unfinished").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="is in the way"):
        map_dataset.export_dataset(provenance, tmp_path / "export")
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_an_audit_that_is_not_done(audited: Path, tmp_path: Path) -> None:
    text = (audited / "audit.yaml").read_text().replace("${here}", str(audited))
    other = yaml.safe_load(text)
    other["explainers"].append("edges")
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(other))
    with pytest.raises(UserError, match="is not done in the workspace"):
        _run(audited, "export-dataset", str(tmp_path / "other.yaml"), str(tmp_path / "x"))


@pytest.mark.parametrize(
    ("package", "arguments", "words"),
    [
        ("mlflow", ["export-mlflow", "small"], "pip install 'ttame[mlflow]'"),
        ("datasets", ["export-dataset", "{audit}", "x"], "pip install 'ttame[datasets]'"),
    ],
)
def test_without_the_package(
    audited: Path, monkeypatch: pytest.MonkeyPatch, package: str, arguments: list[str], words: str
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    given = [argument.format(audit=audited / "audit.yaml") for argument in arguments]
    with pytest.raises(UserError) as told:
        _run(audited, *given)
    assert words in str(told.value)


def test_a_head_of_permuted_labels_is_not_the_one_to_export() -> None:
    def chosen(*explainers: object) -> str | None:
        audit = AuditSpec(
            name="a",
            dataset={"name": "d", "source": {"kind": "shapes"}},
            backbones=["resnet18"],
            explainers=list(explainers),
        )
        explainer = explainer_to_export(complete(audit))
        return explainer.name if explainer else None

    permuted = {"ttame": {"name": "check", "training": {"labels": "permuted"}}}
    assert chosen(permuted, "gradcam", {"ttame": {"name": "mine"}}, "ttame") == "mine"
    assert chosen(permuted, "gradcam") is None
