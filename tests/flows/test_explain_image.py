"""Single pictures explained: by a classifier's name and a head, or by a spec and its workspace."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image
from tiny import jpeg, small_resnet

import ttame_core as tt
from flows.explain_image import open_named, write_pictures
from ttame_core.backbones.classes import ClassList
from ttame_core.errors import UserError

Run = Callable[..., subprocess.CompletedProcess]
NET = "own_net:make"  # a module in the user's folder


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with two pictures, a classifier of one's own, and an untrained head for it."""
    (tmp_path / "own_net.py").write_text(
        "import torch\nfrom torchvision.models.resnet import BasicBlock, ResNet\n"
        "def make():\n    torch.manual_seed(0)\n"
        "    return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=10)\n"
    )
    (tmp_path / "one.jpg").write_bytes(jpeg((300, 200)))
    (tmp_path / "two.jpg").write_bytes(jpeg((80, 120), "blue"))
    backbone = tt.load_backbone(small_resnet(), name="own")
    torch.manual_seed(0)
    tt.save_head(
        tt.make_explainer(backbone, "ttame", needs_head=False).new_head(),
        tmp_path / "head.safetensors",
    )
    return tmp_path


def test_with_a_head_and_no_workspace(ttame: Run, own: Path) -> None:
    both = ("one.jpg", "two.jpg", "--backbone", NET)
    result = ttame("explain-image", *both, "--head", "head.safetensors", "--explainer", "ttame",
                   "--explainer", "gradcam", "--target", "7")  # fmt: skip
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["one.jpg", "two.jpg"]
    assert "explained: class 7 0." in lines[0]
    sheet = Image.open(own / "explained.png")
    assert sheet.width == 8 + 3 * (320 + 8)  # the picture, and two overlays
    assert sheet.height == 8 + 2 * (320 + 18 + 8)
    assert not (own / "workspace").exists()


def test_without_a_head_and_into_a_folder(ttame: Run, own: Path) -> None:
    (own / "broken.jpg").write_bytes(jpeg()[:-100])
    names = "one.jpg", "broken.jpg", "none.jpg", "two.jpg"
    result = ttame("explain-image", *names, "--backbone", NET, "--explainer", "gradcam",
                   "--output", "maps")  # fmt: skip
    assert result.returncode == 2
    assert "image broken.jpg cannot be read: truncated" in result.stderr
    assert "image none.jpg cannot be read: No such file" in result.stderr
    assert {p.name for p in (own / "maps").iterdir()} == {"one.png", "two.png"}


def test_a_head_that_is_not_trained(ttame: Run, own: Path) -> None:
    """Without a head, ttame's maps follow from gradients of the pictures alone, and it says so."""
    result = ttame("explain-image", "one.jpg", "none.jpg", "--backbone", NET)
    assert result.returncode == 2
    assert "image none.jpg cannot be read" in result.stderr
    assert "ttame is not trained: its maps follow from gradients of these pictures" in result.stderr
    assert Image.open(own / "explained.png").width == 8 + 2 * (320 + 8)
    assert (
        "image none.jpg cannot be read"
        in ttame("explain-image", "none.jpg", "--backbone", NET).stderr
    )


def test_mistakes(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(own)

    def said(head: str | None, *explainers: str, target: str | None = None) -> str:
        try:
            opened = open_named(NET, None, head, None, explainers, ["one.jpg"])
            write_pictures(["one.jpg"], *opened, target, "out.png")
        except UserError as mistake:
            return str(mistake)
        raise AssertionError("no mistake was seen")

    assert "tame needs a trained head: give --head FILE" in said(None, "tame")
    assert "cannot read the head nothing" in said("nothing")
    assert "give the head and --tap that go together" in said("one.jpg")
    assert "oracle explains only the images of a data set" in said(None, "oracle")
    assert "Did you mean gradcam" in said(None, "gradcan")
    assert "classes 0 to 9" in said(None, "gradcam", target="12")
    assert not (own / "out.png").exists()
    with pytest.raises(UserError, match="two of the pictures are called one"):
        write_pictures(["a/one.jpg", "b/one.jpg"], {}, ClassList(), None, "folder")


def test_with_a_spec_and_the_heads_of_its_workspace(
    ttame: Run, spec_file: Path, edit_spec: Callable[..., Path], own: Path
) -> None:
    of_spec = ("explain-image", "one.jpg", "--spec", spec_file)
    assert "run `ttame train`" in ttame(*of_spec).stderr
    assert ttame(*of_spec, "--explainer", "gradcam").returncode == 0  # needs no workspace
    for stage in ("shard", "train"):
        assert ttame(stage, spec_file).returncode == 0
    result = ttame(*of_spec, "--backbone", "net", "--target", "Star", "--output", "star.png")
    assert result.returncode == 0, result.stderr
    assert "explained: star" in result.stdout or "star" in result.stdout.split(":")[1]
    assert (own / "star.png").is_file()
    assert "Did you mean star" in ttame(*of_spec, "--target", "stra").stderr
    assert "no backbone ned. Did you mean net" in ttame(*of_spec, "--backbone", "ned").stderr
    edit_spec(lambda s: s["training"].update(epochs=3))
    export = ("export-head", spec_file, "--backbone", "net", "--output", "net.onnx")
    for command in (of_spec, export):  # the head is of the training before
        result = ttame(*command)
        assert result.returncode == 2
        assert "trained as the spec says: run `ttame train`" in result.stderr
