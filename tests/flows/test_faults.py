"""What happens when something breaks (docs/reliability.md): a sentence, and nothing is lost."""

from __future__ import annotations

import random
import resource
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from unittest.mock import patch

import pyarrow.parquet as pq
import pytest
import torch
from damages import cut, delete, edit, flip, put_back, rename, replace, reword, swap
from safetensors.torch import load_file, save
from tiny import PLAIN, shard_all
from typer.testing import CliRunner, Result

from flows.cli import app
from harness import audits
from harness.audits import audit_once, content, differing, temporary, whole
from tasks import models
from ttame_core import spec
from ttame_core.audits.record import Outcome, check_complete, write_record
from ttame_core.audits.verify import verify
from ttame_core.backbones import Backbone
from ttame_core.data.index import load_shards
from ttame_core.data.loader import Batch, load_batches
from ttame_core.errors import UserError
from ttame_core.lake import Lake, shard_tar
from ttame_core.lake.query.connection import run_query
from ttame_core.training import fit as fitting
from ttame_core.training import head as training

(NET,) = audits.AUDIT.backbones
AUDIT = audits.AUDIT.model_copy(  # with shorter trainings
    update={
        "backbones": [NET.model_copy(update={"fit": NET.fit.model_copy(update={"epochs": 4})})],
        "training": audits.AUDIT.training.model_copy(update={"epochs": 4}),
    }
)
TEST_TAR = "datasets/drawn/shards/test-000000.tar"
HEAD = "heads/dataset=drawn/backbone=net/explainer=ttame"
FITTED = "backbones/dataset=drawn/backbone=net"
MAPS = "maps/dataset=drawn/backbone=net/explainer=ttame/test-000001.parquet"
SCORES = "scores/metric=confidence/dataset=drawn/backbone=net/explainer=ttame/test-000001.parquet"


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of an audit that nothing disturbed, without its record."""
    workspace = tmp_path_factory.mktemp("faults") / "undisturbed"
    audit_once(AUDIT, str(workspace), record=False)
    return workspace


@pytest.fixture
def workspace(undisturbed: Path, tmp_path: Path) -> Path:
    """A copy of it, to be broken."""
    return Path(shutil.copytree(undisturbed, tmp_path / "workspace"))


def _again(workspace: Path) -> None:
    audit_once(AUDIT, str(workspace), record=False)


_kept = cache(content)  # of workspaces that no test changes


def _mended(undisturbed: Path, workspace: Path) -> None:
    _again(workspace)
    assert differing(_kept(undisturbed), content(workspace)) == []
    assert temporary(workspace) == []


# ---- broken files ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def few(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    """A lake of one shard of three small pictures with boxes and masks."""
    lake = Lake(tmp_path_factory.mktemp("few"))
    source = {"kind": "shapes", "train": 0, "val": 0, "test": 3, "size": 32}
    shard_all(spec.Dataset(name="few", source=source), lake)
    return lake


def _batch(lake: Lake) -> Batch:
    (batch,) = load_batches(lake, "few", ["test-000000"], PLAIN, batch_size=4, workers=1)
    return batch


def _same(a: Batch, b: Batch) -> bool:
    mine, its = ([c.images, c.labels, *c.boxes, *c.masks] for c in (a, b))
    return a.keys == b.keys and all(map(_equal, mine, its))


def _equal(a: torch.Tensor | None, b: torch.Tensor | None) -> bool:
    return torch.equal(a, b) if isinstance(a, torch.Tensor) and b is not None else a is b


def test_no_flipped_byte_of_a_shard_goes_unnoticed(few: Lake) -> None:
    """Or it is one that says nothing: of a header's spare room, or of how a mask is packed."""
    whole_batch, path = _batch(few), Path(few.path(shard_tar("few", "test-000000")))
    data, rng = path.read_bytes(), random.Random(0)
    told: list[str] = []
    try:
        for position in range(0, len(data), 17):
            broken = bytearray(data)
            broken[position] ^= 1 << rng.randrange(8)
            path.write_bytes(broken)
            try:
                assert _same(_batch(few), whole_batch), f"byte {position} changed what is read"
            except UserError as error:
                told.append(str(error))
    finally:
        path.write_bytes(data)
    assert len(told) > 200
    assert all(str(path) in t and "delete it and run `ttame shard`" in t for t in told)


def test_a_tar_cut_anywhere_is_noticed(few: Lake) -> None:
    whole_batch, path = _batch(few), Path(few.path(shard_tar("few", "test-000000")))
    data = path.read_bytes()
    end = len(data.rstrip(b"\0"))
    try:
        for length in [*range(0, end, 512), *range(0, end, 997)]:  # 512: between two members
            path.write_bytes(data[:length])
            with pytest.raises(UserError, match="delete it and run `ttame shard`"):
                _batch(few)
        path.write_bytes(data[: len(data) - 512])  # nothing but the padding at the end
        assert _same(_batch(few), whole_batch)
    finally:
        path.write_bytes(data)


def test_a_broken_shard_stops_an_audit_and_is_mended_as_the_sentence_says(
    undisturbed: Path, workspace: Path
) -> None:
    path = workspace / TEST_TAR
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    for maps in workspace.glob("maps/*/*/explainer=ttame/test-000000.parquet"):
        maps.unlink()
    with pytest.raises(UserError, match=r"test-000000\.tar .*delete it and run `ttame shard`"):
        _again(workspace)
    assert not list(workspace.glob("maps/*/*/explainer=ttame/test-000000.parquet"))
    path.unlink()
    _mended(undisturbed, workspace)


@pytest.mark.parametrize("left", [0, 0.5, 0.99])
def test_truncated_parquet_files_are_made_again(
    left: float, undisturbed: Path, workspace: Path
) -> None:
    broken = [
        *workspace.glob("datasets/drawn/*.parquet"),
        workspace / TEST_TAR.replace(".tar", ".parquet"),
        workspace / HEAD / "history.parquet",
        workspace / FITTED / "history.parquet",
        workspace / MAPS,
        workspace / SCORES,
    ]
    assert len(broken) == 10
    for path in broken:
        data = path.read_bytes()
        path.write_bytes(data[: int(left * len(data))])
    with pytest.raises(UserError, match=r"shards\.parquet is damaged .*run `ttame audit` again"):
        load_shards(Lake(workspace), "drawn")
    with pytest.raises(UserError, match=r"index\.parquet"):
        run_query(Lake(workspace), "FROM samples")
    _mended(undisturbed, workspace)


def test_a_truncated_index_alone_is_made_again(undisturbed: Path, workspace: Path) -> None:
    path = workspace / "datasets/drawn/index.parquet"
    path.write_bytes(path.read_bytes()[:-10])
    _mended(undisturbed, workspace)


def test_weights_that_are_not_as_they_were_trained_are_made_again(
    undisturbed: Path, workspace: Path
) -> None:
    for folder, name in ((HEAD, "head"), (FITTED, "weights")):
        path = workspace / folder / f"{name}.safetensors"
        whole = path.read_bytes()
        constant = {key: torch.ones_like(value) for key, value in load_file(path).items()}
        for damaged in (whole[:-100], save(constant), whole[:-1] + bytes([whole[-1] ^ 1])):
            path.write_bytes(damaged)
            (workspace / MAPS).unlink()
            models._loaded.clear()  # as in a new process
            _mended(undisturbed, workspace)
            assert path.read_bytes() == whole


def test_a_truncated_checkpoint_is_no_checkpoint(undisturbed: Path, workspace: Path) -> None:
    for folder in (HEAD, FITTED):
        for path in (workspace / folder).iterdir():
            path.unlink()
        (workspace / folder / "checkpoint.pt").write_bytes(b"PK\3\4 and no more")
    _mended(undisturbed, workspace)


def test_a_deleted_maps_file_is_made_again_and_nothing_else(
    undisturbed: Path, workspace: Path
) -> None:
    before = whole(workspace)
    (workspace / MAPS).unlink()
    _mended(undisturbed, workspace)
    after = whole(workspace)
    cost = MAPS.replace("maps/", "scores/metric=cost/")
    assert {name for name in before if after[name] != before[name]} == {MAPS, cost}


def test_what_a_kill_left_beside_a_finished_training_goes(
    undisturbed: Path, workspace: Path
) -> None:
    for folder in (HEAD, FITTED):
        (workspace / folder / "checkpoint.pt").write_bytes(b"x")
    _mended(undisturbed, workspace)


# ---- what a person damages by hand ------------------------------------------------------------

SHARDS = "datasets/drawn/shards"
LISTS = "datasets/drawn"
MADE = "dataset=drawn/backbone=net"
TRAINED = ("backbones/", "heads/")
DAMAGES: list[tuple[str, Callable[[Path], None]]] = [
    (f"{LISTS}/plan.parquet", put_back), (f"{LISTS}/shards.parquet", cut),
    (f"{LISTS}/index.parquet", delete), (f"{LISTS}/annotations.parquet", edit),
    (f"{LISTS}/rejected.parquet", rename),
    (TEST_TAR, flip), (f"{SHARDS}/test-000001.tar", cut), (f"{SHARDS}/train-000002.tar", replace),
    (f"{SHARDS}/val-000000.tar", delete), (f"{SHARDS}/test-000002.parquet", replace),
    (f"{FITTED}/weights.safetensors", flip), (f"{FITTED}/history.parquet", delete),
    (f"{HEAD}/head.safetensors", cut), (f"{HEAD}/spec.json", reword),
    (f"{HEAD}/history.parquet", edit),
    (MAPS, swap), (MAPS.replace("000001", "000002"), replace),
    (MAPS.replace("000001", "000003"), put_back), (SCORES.replace("000001", "000004"), delete),
    (SCORES.replace("000001", "000005"), swap), (SCORES.replace("000001", "000000"), edit),
    (f"classes/{MADE}/classes.parquet", delete),
    (f"explainers/{MADE}/explainer=ttame/role.parquet", swap),
]  # fmt: skip


@pytest.fixture(scope="module")
def recorded(undisturbed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The workspace of an audit that nothing disturbed, with its record but for the page."""
    workspace = shutil.copytree(undisturbed, tmp_path_factory.mktemp("recorded") / "workspace")
    _record(workspace, 1)
    return workspace


def _record(workspace: Path, day: int) -> None:
    ended = Outcome({}, datetime(2026, 1, day, tzinfo=UTC))
    write_record(Lake(workspace), AUDIT, ended, lambda recorded: None)


def _verify(workspace: Path, *options: str) -> Result:
    arguments = ["verify", "--workspace", str(workspace), "--format", "csv", *options]
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


@pytest.mark.parametrize(("path", "damage"), [d for d in DAMAGES if d[0].startswith(TRAINED)])
def test_verify_names_a_damage_of_what_was_trained(
    path: str, damage: Callable[[Path], None], recorded: Path, tmp_path: Path
) -> None:
    workspace = shutil.copytree(recorded, tmp_path / "workspace")
    damage(workspace / path)
    assert path in {fault.path for fault in verify(Lake(workspace))}


def test_verify_repair_and_an_audit_mend_what_a_person_damaged(
    recorded: Path, tmp_path: Path
) -> None:
    workspace = shutil.copytree(recorded, tmp_path / "workspace")
    for path, damage in DAMAGES:
        damage(workspace / path)
    assert _verify(workspace, "--repair").exit_code == 1
    (workspace / f"{LISTS}/old-rejected.parquet").unlink()  # a foreign file stays, and is named
    models._loaded.clear()  # as in a new process
    _mended(recorded, workspace)
    _record(workspace, 2)
    whole = _verify(workspace)
    assert (whole.stdout, whole.exit_code) == ("", 0)


@pytest.mark.parametrize("damage", [delete, put_back])
@pytest.mark.parametrize("path", [MAPS, SCORES])
def test_what_was_removed_or_replaced_during_an_audit_is_in_no_record(
    path: str, damage: Callable[[Path], None], workspace: Path
) -> None:
    lake = Lake(workspace)
    check_complete(lake, AUDIT, [])
    damage(workspace / path)
    with pytest.raises(UserError, match=rf"{path} was removed or replaced while the audit ran"):
        check_complete(lake, AUDIT, [])
    check_complete(lake, AUDIT, ["net"])


# ---- no room, no permission ------------------------------------------------------------------


@contextmanager
def _files_up_to(size: int) -> Iterator[None]:
    """No file of this process may grow beyond `size` bytes, as on a disk with so much room left."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize(
    "kind",
    [
        "datasets/drawn/plan.parquet",
        TEST_TAR,
        TEST_TAR.replace(".tar", ".parquet"),
        "datasets/drawn/index.parquet",
        "datasets/drawn/shards.parquet",
        f"{FITTED}/checkpoint.pt",
        f"{FITTED}/weights.safetensors",
        f"{HEAD}/checkpoint.pt",
        f"{HEAD}/head.safetensors",
        f"{HEAD}/history.parquet",
        MAPS,
        SCORES,
    ],
)
def test_a_full_disk_is_one_sentence_at_each_kind_of_file(
    kind: str, undisturbed: Path, workspace: Path
) -> None:
    (workspace / kind).unlink(missing_ok=True)
    if kind.endswith("checkpoint.pt"):
        _untrained(workspace, str(Path(kind).parent))
    create = Lake.create

    @contextmanager
    def on_a_small_disk(lake: Lake, path: str) -> Iterator[Path]:
        with _files_up_to(200) if path == kind else nullcontext(), create(lake, path) as file:
            yield file

    words = rf"cannot write .*{Path(kind).name}: File too large: make room"
    with patch.object(Lake, "create", on_a_small_disk), pytest.raises(UserError, match=words):
        _again(workspace)
    assert not (workspace / kind).exists()
    assert not list(workspace.rglob("*.writing-*"))
    _mended(undisturbed, workspace)


@contextmanager
def _mounted(place: Path, *options: str) -> Iterator[Callable[..., None]]:
    """A small file system in memory; gives a function that changes its options."""

    def mount(*changed: str) -> None:
        command = ["mount", "-t", "tmpfs", "-o", ",".join((*changed,)), "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("this needs the right to mount a file system")

    place.mkdir()
    mount(*options)
    try:
        yield lambda *changed: mount("remount", *changed)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_that_is_really_full(undisturbed: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with _mounted(place, "size=600k") as remount:
        with pytest.raises(UserError, match="No space left on device: make room"):
            _again(place / "workspace")
        assert temporary(place) == []
        remount("size=64m")
        _mended(undisturbed, place / "workspace")


def test_a_workspace_that_is_read_only_can_be_asked(undisturbed: Path, tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with _mounted(place, "size=64m") as remount:
        workspace = Path(shutil.copytree(undisturbed, place / "workspace"))
        remount("ro")
        (row,) = run_query(Lake(workspace), "SELECT count(*) AS n FROM samples").to_pylist()
        assert row["n"] == 88
        _again(workspace)  # there is nothing to do
        with pytest.raises(UserError, match="cannot write to the workspace"):
            audit_once(AUDIT, str(workspace))  # but a record to write
        remount("rw")
        (workspace / MAPS).unlink()
        remount("ro")
        with pytest.raises(UserError, match="cannot write to the workspace"):
            _again(workspace)
        remount("rw")
        _mended(undisturbed, workspace)


# ---- trainings -------------------------------------------------------------------------------


def _from_call(number: int, function: Callable, instead: Callable, last: int = 2**62) -> Callable:
    """As `function`, but the calls from this one, counted from 1, give what `instead` makes."""
    calls = iter(range(1, 2**62))

    def called(*arguments: object, **named: object) -> object:
        found = function(*arguments, **named)
        return instead(found) if number <= next(calls) <= last else found

    return called


def _nan_loss(found: training.Losses) -> training.Losses:
    nan = found.loss * float("nan")
    return training.Losses(nan, nan, nan, nan)


def _no_memory(found: object) -> object:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")


def _training_losses(number: int, instead: Callable) -> AbstractContextManager:
    called = _from_call(number, training.training_losses, instead)
    return patch.object(training, "training_losses", called)


def _untrained(workspace: Path, folder: str) -> Path:
    for path in (workspace / folder).iterdir():
        path.unlink()
    return workspace / folder / "checkpoint.pt"


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        (_nan_loss, r"no longer finite at step 11: lower training\.learning_rate; .* of step 10\."),
        (_no_memory, r"does not fit into the device's memory .*lower training\.batch_size"),
    ],
)
def test_a_training_that_fails_keeps_its_last_good_checkpoint(
    instead: Callable, words: str, undisturbed: Path, workspace: Path
) -> None:
    checkpoint = _untrained(workspace, HEAD)
    with _training_losses(11, instead), pytest.raises(UserError, match=words):
        _again(workspace)
    state = torch.load(checkpoint, weights_only=True)
    assert state["step"] == 10
    assert all(value.isfinite().all() for value in state["network"].values())
    _mended(undisturbed, workspace)  # it goes on from there to the same head


@pytest.mark.parametrize(
    ("instead", "words"),
    [
        (
            lambda loss: loss * float("nan"),
            r"no longer finite at step 10: lower fit\.learning_rate; .* of step 8\.",
        ),
        (_no_memory, r"does not fit into the device's memory .*lower fit\.batch_size"),
    ],
)
def test_a_fit_that_fails_keeps_its_last_good_checkpoint(
    instead: Callable, words: str, undisturbed: Path, workspace: Path
) -> None:
    checkpoint = _untrained(workspace, FITTED)
    called = _from_call(10, fitting.F.cross_entropy, instead)
    with (
        patch.object(fitting.F, "cross_entropy", called),
        pytest.raises(UserError, match=words),
    ):
        _again(workspace)
    assert torch.load(checkpoint, weights_only=True)["step"] == 8
    _mended(undisturbed, workspace)


# ---- too little memory -----------------------------------------------------------------------


def test_maps_and_scores_in_smaller_batches_are_the_same(
    undisturbed: Path, workspace: Path
) -> None:
    shutil.rmtree(workspace / "maps")
    shutil.rmtree(workspace / "scores")
    sizes = []
    features = Backbone.features

    def small_memory(self: object, images: torch.Tensor) -> object:
        sizes.append(len(images))
        if len(images) > 1:
            _no_memory(None)
        return features(self, images)

    with patch.object(Backbone, "features", small_memory):
        _again(workspace)
    assert {4, 2, 1} <= set(sizes)
    for path in sorted(undisturbed.rglob("explainer=*/test-*.parquet")):
        name = path.relative_to(undisturbed)
        expected, found = pq.read_table(path), pq.read_table(workspace / name)
        assert found["key"].to_pylist() == expected["key"].to_pylist()
        if name.parts[0] == "maps":
            maps = [torch.tensor(t["map"].to_pylist()) for t in (found, expected)]
            torch.testing.assert_close(*maps, rtol=0, atol=2e-3)
