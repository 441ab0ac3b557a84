"""Files of others: nothing pickled in them runs, nothing in them leads out of the workspace."""

from __future__ import annotations

import contextlib
import io
import json
import os
import pickle
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import save_file
from tiny import shard_all, tiny_backbone

from ttame_core import spec
from ttame_core.backbones import Backbone, classes, load_backbone, own_weights
from ttame_core.backbones.checkpoints import file_hash
from ttame_core.data.loader import read_shard
from ttame_core.data.plan import plan_shards
from ttame_core.errors import UserError, writing
from ttame_core.explainers import REGISTRY
from ttame_core.heads.files import adopt_head, load_head
from ttame_core.heads.published import read_published
from ttame_core.lake import Lake, dataset_file, shard_tar
from ttame_core.training.fit import fit_backbone
from ttame_core.training.head import train_head
from ttame_core.training.orders import TrainingOutput, TrainingShards

NET = {"model": "resnet10t", "args": {"channels": [8, 16, 24, 32], "stem_width": 8}}


class _Bomb:
    """Unpickled, it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.mark,)


def _pickled(bomb: _Bomb) -> bytes:
    return pickle.dumps(bomb)


def _state(bomb: _Bomb) -> bytes:
    return _saved({"state_dict": {"weight": bomb}, "fingerprint": bomb})


def _legacy(bomb: _Bomb) -> bytes:
    return _saved({"state_dict": {"weight": bomb}}, _use_new_zipfile_serialization=False)


def _saved(value: Any, **options: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(value, buffer, **options)
    return buffer.getvalue()


def _array(bomb: _Bomb) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.array([[bomb]], dtype=object), allow_pickle=True)
    return buffer.getvalue()


# ---- where a file of others comes in ---------------------------------------------------------


def _checkpoint(content: bytes, folder: Path, lake: Lake) -> None:
    (folder / "net.pth").write_bytes(content)
    load_backbone(spec.Backbone(checkpoint=str(folder / "net.pth"), **NET))


def _checkpoint_called_safetensors(content: bytes, folder: Path, lake: Lake) -> None:
    (folder / "net.safetensors").write_bytes(content)
    load_backbone(spec.Backbone(checkpoint=str(folder / "net.safetensors"), **NET))


def _checkpoint_among_the_arguments(content: bytes, folder: Path, lake: Lake) -> None:
    (folder / "net.pth").write_bytes(content)
    hidden = {**NET["args"], "checkpoint_path": str(folder / "net.pth")}
    load_backbone(spec.Backbone(model=NET["model"], args=hidden, fit={}))


def _hugging_face_folder(content: bytes, folder: Path, lake: Lake) -> None:
    pytest.importorskip("transformers")
    (folder / "config.json").write_text(json.dumps({"model_type": "vit"}))
    for name in ("pytorch_model.bin", "model.safetensors"):
        (folder / name).write_bytes(content)
    load_backbone(spec.Backbone(model=str(folder), name="hf"))


def _imported_head(content: bytes, folder: Path, lake: Lake) -> None:
    (folder / "head.ckpt").write_bytes(content)
    read_published(str(folder / "head.ckpt"))


def _given_head(content: bytes, folder: Path, lake: Lake) -> None:
    (folder / "head.safetensors").write_bytes(content)
    head = str(folder / "head.safetensors")
    adopt_head(lake, head, REGISTRY["ttame"](tiny_backbone()), "heads/x", "x")


def _head_in_the_lake(content: bytes, folder: Path, lake: Lake) -> None:
    with lake.create("heads/x/head.safetensors") as path:
        path.write_bytes(content)
    load_head(lake, "heads/x", REGISTRY["ttame"](tiny_backbone()))


def _eight_samples(lake: Lake) -> TrainingShards:
    return TrainingShards(lake, "drawn", [("train-000000", 8)], [], spec.Compute(workers=1))


def _training_in_the_lake(content: bytes, folder: Path, lake: Lake) -> None:
    with lake.create("heads/x/checkpoint.pt") as path:
        path.write_bytes(content)
    training = spec.Training(epochs=1, min_steps=0, batch_size=4)
    explainer = REGISTRY["ttame"](tiny_backbone())
    train_head(_eight_samples(lake), TrainingOutput(lake, "heads/x", "x"), explainer, training)


def _fit_in_the_lake(content: bytes, folder: Path, lake: Lake) -> None:
    with lake.create("backbones/x/checkpoint.pt") as path:
        path.write_bytes(content)
    settings = spec.Backbone(fit={"epochs": 1, "batch_size": 4}, **NET)
    output = TrainingOutput(lake, "backbones/x", "x")
    fit_backbone(_eight_samples(lake), output, settings, 10, torch.device("cpu"))


def _imported_maps(content: bytes, folder: Path, lake: Lake) -> None:
    (folder / "key.npy").write_bytes(content)
    REGISTRY["imported"](tiny_backbone(), {"path": str(folder)}).prepare()


def _imported_parquet(content: bytes, folder: Path, lake: Lake) -> None:
    (folder / "maps.parquet").write_bytes(content)
    REGISTRY["imported"](tiny_backbone(), {"path": str(folder / "maps.parquet")}).prepare()


PLACES: list[Callable[[bytes, Path, Lake], None]] = [
    _checkpoint,
    _checkpoint_called_safetensors,
    _checkpoint_among_the_arguments,
    _hugging_face_folder,
    _imported_head,
    _given_head,
    _head_in_the_lake,
    _training_in_the_lake,
    _fit_in_the_lake,
    _imported_maps,
    _imported_parquet,
]


@pytest.fixture(scope="module")
def sharded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lake")
    source = {"kind": "shapes", "train": 8, "val": 0, "test": 0, "size": 64}
    shard_all(spec.Dataset(name="drawn", source=source), Lake(folder))
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", [_pickled, _state, _legacy, _array])
@pytest.mark.parametrize("place", PLACES)
def test_nothing_pickled_runs(
    place: Callable[..., None], kind: Callable[..., bytes], sharded: Path, tmp_path: Path
) -> None:
    shutil.copytree(sharded, tmp_path / "lake")
    mark, lake = tmp_path / "ran", Lake(tmp_path / "lake")
    content = kind(_Bomb(mark))
    (tmp_path / "files").mkdir()
    # One sentence; or, of a training in the lake, as if the file were not there.
    with contextlib.suppress(UserError):
        place(content, tmp_path / "files", lake)
    assert not mark.exists()


# ---- code that comes with a model ------------------------------------------------------------

CODE = """
from pathlib import Path
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import ImageClassifierOutput
import torch
Path({mark!r}).touch()
class OwnConfig(PretrainedConfig):
    model_type = "own"
class OwnNet(PreTrainedModel):
    config_class = OwnConfig
    def __init__(self, config):
        super().__init__(config)
        self.stem = torch.nn.Conv2d(3, 4, 4, 4)
        self.body = torch.nn.Conv2d(4, 4, 2, 2)
        self.top = torch.nn.Conv2d(4, 8, 2, 2)
        self.classifier = torch.nn.Linear(8, config.num_labels)
        self.post_init()
    def forward(self, pixel_values, **_):
        x = self.top(self.body(self.stem(pixel_values)))
        return ImageClassifierOutput(logits=self.classifier(x.mean(dim=(2, 3))))
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """A Hugging Face folder with a network of its own in it, and the file that its code makes."""
    pytest.importorskip("transformers")
    from transformers import dynamic_module_utils

    modules = str(tmp_path / "modules")
    monkeypatch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", modules)
    folder, mark = tmp_path / "model", tmp_path / "ran"
    folder.mkdir()
    (folder / "own.py").write_text(CODE.format(mark=str(mark)))
    auto_map = {"AutoConfig": "own.OwnConfig", "AutoModelForImageClassification": "own.OwnNet"}
    config = {"model_type": "own", "auto_map": auto_map, "num_labels": 3, "image_size": 32}
    (folder / "config.json").write_text(json.dumps(config))
    net = {"stem": (3, 4, 4), "body": (4, 4, 2), "top": (4, 8, 2)}
    state = {f"{k}.weight": torch.rand(o, i, s, s) for k, (i, o, s) in net.items()}
    state |= {f"{k}.bias": torch.zeros(o) for k, (_, o, _) in net.items()}
    state |= {"classifier.weight": torch.rand(3, 8), "classifier.bias": torch.zeros(3)}
    save_file(state, folder / "model.safetensors", {"format": "pt"})
    return folder, mark


def test_code_in_a_model_is_refused(own_code: tuple[Path, Path], tmp_path: Path) -> None:
    folder, mark = own_code
    save_file({"x": torch.zeros(1)}, tmp_path / "weights.safetensors")
    for settings in (
        spec.Backbone(model=str(folder)),
        spec.Backbone(model=str(folder), fit={}),
        spec.Backbone(model=str(folder), checkpoint=str(tmp_path / "weights.safetensors")),
    ):
        with pytest.raises(UserError, match=r"has code of its own.*TTAME_TRUST"):
            load_backbone(settings)
    for hidden in ("trust_remote_code", "code_revision"):
        with pytest.raises(UserError, match=rf"cannot hold {hidden}"):
            load_backbone(spec.Backbone(model=str(folder), args={hidden: True}))
    assert not mark.exists()


def test_code_in_a_model_runs_where_the_user_says_so(
    own_code: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, mark = own_code
    monkeypatch.chdir(folder.parent)
    monkeypatch.setenv("TTAME_TRUST", f"another.module, ./{folder.name}/")
    trusted = spec.Backbone(model=str(folder), taps=[])
    assert load_backbone(trusted).num_classes == 3
    assert mark.exists()
    before = own_weights(trusted)
    (folder / "own.py").write_text((folder / "own.py").read_text() + "\n# changed\n")
    assert own_weights(trusted) != before


def test_a_function_is_called_only_where_the_user_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    code = "from pathlib import Path\nPath('ran').touch()\nfrom torch.nn import Identity as net\n"
    code += "from torch.nn import Flatten as other\n"
    for name in ("strange", "familiar", "nodding"):
        (tmp_path / f"{name}.py").write_text(code)
    monkeypatch.setenv("TTAME_TRUST", "familiar, nodding:net")
    for settings in (
        spec.Backbone(model="strange:net"),
        spec.Backbone(model="nodding:other"),
        spec.Backbone(model="os:system", args={"command": "touch ran"}),
    ):
        for load in (own_weights, load_backbone):
            with pytest.raises(UserError, match=r"is not called: .* export TTAME_TRUST="):
                load(settings)
    assert not (tmp_path / "ran").exists()
    for model in ("familiar:net", "nodding:net"):
        own_weights(spec.Backbone(model=model))
        assert (tmp_path / "ran").exists()
        (tmp_path / "ran").unlink()


def test_a_spec_cannot_trust_itself() -> None:
    with pytest.raises(ValidationError, match="trust"):
        spec.Backbone.model_validate({"model": "strange:net", "trust": True})
    with pytest.raises(ValidationError, match="trust"):
        spec.Compute.model_validate({"engine": "dask", "address": "tcp://a:1", "trust": True})


# ---- names that lead elsewhere ---------------------------------------------------------------

HOSTILE = ["../../evil", "/tmp/evil", "a/../../evil", "..\\..\\evil", "C:\\evil", "a\0b", ".."]


@pytest.mark.parametrize("name", [*HOSTILE, "", ".hidden", "a/b"])
def test_names_that_become_folders(name: str) -> None:
    for make in (
        lambda: spec.Backbone(model="resnet18", pretrained=True, name=name),
        lambda: spec.Explainer(method="gradcam", name=name),
        lambda: spec.Dataset(name=name, source={"kind": "shapes"}),
    ):
        with pytest.raises(ValueError, match="name"):
            make()


@pytest.mark.parametrize("path", ["../x", "a/../../x", "/etc/passwd", "..", "a/.."])
@pytest.mark.parametrize("root", ["local", "memory"])
def test_paths_in_the_lake(path: str, root: str, tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake" if root == "local" else "memory://lake")
    for use in (lake.exists, lake.read_table, lake.remove, lake.metadata, lake.read_bytes):
        with pytest.raises(UserError, match="outside the workspace"):
            use(path)
    for opened in (lake.create, lake.open, lake.local_copy):
        with pytest.raises(UserError, match="outside the workspace"), opened(path):
            pass


def _tar(path: Path, names: list[str], image: bytes) -> None:
    about = {"label": 0, "class": "x", "path": "x", "width": 8, "height": 8, "boxes": []}
    with tarfile.open(path, "w") as tar:
        for name in names:
            for suffix, data in ((".jpg", image), (".json", json.dumps(about).encode())):
                member = tarfile.TarInfo(name + suffix)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE):
            member = tarfile.TarInfo("link.jpg")
            member.type, member.linkname = kind, "/etc/passwd"
            tar.addfile(member)


def test_members_of_a_tar_are_names_and_nothing_else(sharded: Path, tmp_path: Path) -> None:
    """They are read in memory: a name is a key, a link is no file, and nothing is unpacked."""
    shutil.copytree(sharded, tmp_path / "lake")
    lake = Lake(tmp_path / "lake")
    image = next(read_shard(lake, "drawn", "train-000000"))["jpg"]
    _tar(Path(lake.path(shard_tar("drawn", "train-000000"))), [*HOSTILE[:5], "fine"], image)
    before = set(tmp_path.rglob("*"))
    keys = []
    with contextlib.suppress(UserError):  # it is not the tar that was written
        keys += [sample["__key__"] for sample in read_shard(lake, "drawn", "train-000000")]
    assert set(tmp_path.rglob("*")) == before
    assert "link" not in keys


def test_a_key_leads_to_no_map_outside_its_folder(tiny: Backbone, tmp_path: Path) -> None:
    for name in ("maps/one", "secret"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        np.save(tmp_path / f"{name}.npy", np.ones((2, 2), np.float32))
    explainer = REGISTRY["imported"](tiny, {"path": str(tmp_path / "maps")})
    found = explainer.source.read(["one", "../secret", str(tmp_path / "secret")])
    assert list(found) == [("one", None)]


@pytest.mark.parametrize("path", ["../../evil.jpg", "a/../../evil.jpg", "..\\..\\evil.jpg"])
def test_a_manifests_paths_become_keys_that_are_names(path: str, tmp_path: Path) -> None:
    (tmp_path / "list.csv").write_text(f"path,label\n{path},0\nimages/fine.jpg,0\n")
    dataset = spec.Dataset(
        name="d", source={"kind": "manifest", "path": str(tmp_path / "list.csv")}
    )
    lake = Lake(tmp_path / "lake")
    plan_shards(dataset, lake)
    rows = lake.read_table(dataset_file("d", "plan.parquet")).to_pylist()
    assert len(rows) == 2
    assert all(set(row["key"]) <= set("abcdefghijklmnopqrstuvwxyz0123456789-") for row in rows)
    assert [p.name for p in tmp_path.iterdir()] in (["list.csv", "lake"], ["lake", "list.csv"])


@pytest.mark.parametrize(
    "source",
    [
        {"kind": "list", "path": "PIPE", "root": "HERE"},
        {"kind": "manifest", "path": "PIPE"},
        {"kind": "folder", "path": "PIPE"},
    ],
)
def test_a_pipe_is_no_list_of_pictures(source: dict[str, str], tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    places = {"PIPE": str(pipe), "HERE": str(tmp_path)}
    dataset = spec.Dataset(name="d", source={k: places.get(v, v) for k, v in source.items()})
    with pytest.raises(UserError, match="pipe"):
        plan_shards(dataset, Lake(tmp_path / "lake"))


def test_a_pipe_is_no_annotations(folder: Path, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    source = {"kind": "folder", "path": str(folder)}
    annotations = {"kind": "coco", "path": str(tmp_path / "pipe.json")}
    dataset = spec.Dataset(name="d", source=source, annotations=annotations)
    with pytest.raises(UserError, match="is a pipe"):
        plan_shards(dataset, Lake(tmp_path / "lake"))


def test_a_pipe_is_no_checkpoint_and_no_class_names(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match="no plain file"):
        file_hash(str(tmp_path / "pipe"))
    with pytest.raises(UserError, match="no checkpoint"):
        load_backbone(spec.Backbone(**NET, checkpoint=str(tmp_path / "pipe")))
    with pytest.raises(UserError, match="no plain file"):
        classes._read(str(tmp_path / "pipe"), "net")


def test_a_link_in_the_way_of_an_output_is_not_followed(tmp_path: Path) -> None:
    elsewhere, output = tmp_path / "elsewhere.txt", tmp_path / "table.csv"
    elsewhere.write_text("mine")
    (tmp_path / ".unfinished-table.csv").symlink_to(elsewhere)
    with writing(output) as file:
        file.write_text("new")
        file.with_name(f"{file.name}.data").write_text("beside")
        assert not output.exists()
    assert elsewhere.read_text() == "mine"
    assert output.read_text() == "new"
    assert (tmp_path / "table.csv.data").read_text() == "beside"
    assert len(list(tmp_path.iterdir())) == 4
