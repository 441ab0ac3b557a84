"""What is said before the first stage of an audit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import timm
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file

from ttame_core.audits import readiness
from ttame_core.audits.readiness import problems
from ttame_core.audits.specification import open_spec
from ttame_core.data.plan import plan_shards
from ttame_core.errors import UserError
from ttame_core.lake import Lake

ARGS = {"channels": [8, 16, 24, 32], "stem_width": 8}
SHAPES = {"kind": "shapes", "train": 8, "val": 0, "test": 8, "size": 64}
Found = Callable[..., dict[str, str]]


@pytest.fixture
def found(tmp_path: Path) -> Found:
    """What is wrong with a spec that is right but for these keys, by backbone."""
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", num_classes=10, **ARGS)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    right = {
        "name": "net",
        "model": "resnet10t",
        "checkpoint": "${here}/net.safetensors",
        "args": ARGS,
        "preprocessing": {"input_size": [64, 64]},
    }

    def found(*backbones: dict[str, Any], **keys: Any) -> dict[str, str]:
        spec = {"name": "small", "dataset": {"name": "drawn", "source": SHAPES}, **keys}
        named = [{**right, "name": f"net{n}", **own} for n, own in enumerate(backbones or [{}])]
        spec["backbones"] = [
            {key: value for key, value in one.items() if value is not None} for one in named
        ]
        (tmp_path / "audit.yaml").write_text(yaml.safe_dump(spec))
        audit, lake = open_spec(tmp_path / "audit.yaml"), Lake(tmp_path / "workspace")
        return problems(audit, lake, plan_shards(audit.dataset, lake))

    return found


def test_nothing_is_wrong(found: Found) -> None:
    assert found() == {}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"checkpoint": "nowhere.safetensors"}, "there is no checkpoint at nowhere.safetensors"),
        ({"args": {**ARGS, "stem_width": 16}}, "another architecture"),
        ({"taps": ["layer9"]}, "layer9"),
        ({"class_names": ["circle"]}, "`class_names` names 1"),
        ({"class_names": [f"bird {n}" for n in range(10)]}, "cannot be matched"),
        ({"head": "nowhere.safetensors"}, "nowhere.safetensors"),
    ],
)
def test_a_wrong_backbone_is_said_beside_a_right_one(
    found: Found, wrong: dict[str, Any], words: str
) -> None:
    (name, sentence), *others = found({}, wrong).items()
    assert (name, others) == ("net1", [])
    assert words in sentence
    with pytest.raises(UserError, match=r"^[^\n]+$"):
        found(wrong)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"maps": {"targets": ["wallaby"]}}, "wallaby"),
        ({"maps": {"targets": "top-11"}}, "has 10 classes"),
        ({"maps": {"split": "val"}}, "no image in the split val"),
    ],
)
def test_what_is_wrong_for_all_backbones_ends_the_audit(
    found: Found, keys: dict[str, Any], words: str
) -> None:
    with pytest.raises(UserError, match=words):
        found(**keys)


def test_heads_and_classifiers_need_a_training_split(found: Found, tmp_path: Path) -> None:
    only_test = {"name": "drawn", "source": SHAPES | {"train": 0}}
    with pytest.raises(UserError, match="no image in the split train, on which the head of ttame"):
        found(dataset=only_test)
    assert found(dataset=only_test, explainers=["gradcam"]) == {}
    fitted = {"checkpoint": None, "fit": {"epochs": 1}}
    with pytest.raises(UserError, match="its classifier of backbone net0 is trained"):
        found(fitted, dataset=only_test, explainers=["gradcam"])
    assert found(fitted, explainers=["gradcam"]) == {}


def test_a_classifier_cannot_be_trained_on_one_class(found: Found, tmp_path: Path) -> None:
    for number in range(8):
        path = tmp_path / "images/cat" / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 64), (number, 0, 0)).save(path)
    dataset = {
        "name": "cats",
        "source": {"kind": "folder", "path": str(tmp_path / "images")},
        "splits": {"train": 0.5, "test": 0.5},
    }
    fitted = {"checkpoint": None, "fit": {"epochs": 1}}
    with pytest.raises(UserError, match="have one class alone, so that backbone net0"):
        found(fitted, dataset=dataset)


def test_pictures_that_do_not_fit_on_the_disk(
    found: Found, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    monkeypatch.setattr(readiness.shutil, "disk_usage", lambda path: SimpleNamespace(free=10))
    dataset = {"name": "one", "source": {"kind": "glob", "path": str(tmp_path / "*.png")}}
    with pytest.raises(UserError, match="make room"):
        found(dataset={**dataset, "splits": {"test": 1}}, explainers=["gradcam"])
