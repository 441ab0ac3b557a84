"""The spec that a look at the images makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttame_core import spec
from ttame_core.audits.specification import open_spec
from ttame_core.data.annotations import REGISTRY as ANNOTATIONS
from ttame_core.data.draft import Wanted, draft, name_of
from ttame_core.data.kinds import complete
from ttame_core.data.survey import Survey
from ttame_core.errors import UserError

SOURCE = spec.Source(kind="folder", path="/data/zoo: of birds #1")
BOXES = spec.Annotations(kind="voc", path="/data/boxes")


def found(train: int = 300, annotations: spec.Annotations | None = None) -> Survey:
    images = {"heron": {"train": train, "test": 40}, "teal": {"train": 0, "test": 10}}
    dataset = spec.Dataset(name="zoo", source=SOURCE, annotations=annotations)
    objects = {"heron": ["beak", "wing"], "teal": ["wing"]}
    splits = {"train": train, "test": 50}
    return Survey(dataset, images, splits, 30, objects, 50, (40, 500, 3000), [])


def written(tmp_path: Path, text: str) -> spec.AuditSpec:
    (tmp_path / "zoo.yaml").write_text(text)
    return open_spec(tmp_path / "zoo.yaml")


def test_it_loads_and_says_what_was_found(tmp_path: Path) -> None:
    text = draft("zoo", found(annotations=BOXES), Wanted(), "zoo.yaml")
    audit = written(tmp_path, text)
    assert audit.dataset.source == SOURCE
    assert audit.dataset.annotations == complete(BOXES, ANNOTATIONS)
    assert audit.dataset.max_size == 512  # some images are large
    assert [e.name for e in audit.explainers] == ["ttame", "gradcam", "random", "oracle"]
    (backbone,) = audit.backbones
    assert backbone.fit is not None
    assert "350 images in 2 classes: heron, teal" in text
    assert "heron: beak, wing" in text
    assert "objects: {heron: [beak]}" in text
    assert "teal: " not in text  # it has boxes of one name only


def test_without_annotations_there_is_no_oracle(tmp_path: Path) -> None:
    audit = written(tmp_path, draft("zoo", found(), Wanted(), "zoo.yaml"))
    assert [e.name for e in audit.explainers] == ["ttame", "gradcam", "random"]
    assert audit.dataset.annotations is None


def test_few_images_are_trained_on_in_small_batches(tmp_path: Path) -> None:
    audit = written(tmp_path, draft("zoo", found(train=20), Wanted(), "zoo.yaml"))
    assert audit.training.batch_size == audit.backbones[0].fit.batch_size == 5


def test_models_with_other_classes_are_not_trained_further(tmp_path: Path) -> None:
    models = ["resnet18", "torchvision/resnet18", "mylib.nets:make"]
    audit = written(tmp_path, draft("zoo", found(), Wanted(models), "zoo.yaml"))
    first, _, own = audit.backbones
    assert first.pretrained
    assert own.runs_code
    assert not own.trusted
    assert {backbone.fit for backbone in audit.backbones} == {None}
    with pytest.raises(UserError, match=r"unknown model resnet19: .* Did you mean resnet1"):
        draft("zoo", found(), Wanted(["resnet19"]), "zoo.yaml")
    with pytest.raises(UserError, match="two backbones are called resnet18"):
        draft("zoo", found(), Wanted(["resnet18", "resnet18"]), "zoo.yaml")


def test_the_owner_of_a_classifier_gives_its_weights_and_class_names(tmp_path: Path) -> None:
    wanted = Wanted(["resnet18"], "/models/mine.safetensors", "/models/names.txt")
    (backbone,) = written(tmp_path, draft("zoo", found(), wanted, "zoo.yaml")).backbones
    assert (backbone.checkpoint, backbone.class_names) == (wanted.weights, wanted.class_names)
    assert (backbone.pretrained, backbone.fit) == (False, None)
    for several in ([], ["resnet18", "resnet34"]):
        with pytest.raises(UserError, match="are of one classifier"):
            draft("zoo", found(), Wanted(several, "/models/mine.safetensors"), "zoo.yaml")


def test_without_training_images_no_head_is_trained(tmp_path: Path) -> None:
    text = draft("zoo", found(train=0), Wanted(["resnet18"]), "zoo.yaml")
    assert "ttame" not in [explainer.name for explainer in written(tmp_path, text).explainers]


def test_the_classes_are_those_of_the_weights_that_are_named(tmp_path: Path) -> None:
    models = ["vit_base_patch16_224", "vit_base_patch16_224.augreg_in21k"]
    text = draft("zoo", found(), Wanted(models), "zoo.yaml")
    assert "Its 1000 published classes" in text
    assert "Its 21843 published classes" in text


def test_names() -> None:
    assert name_of("/data/My Birds/images") == "My-Birds"
    assert name_of("/data/list.txt") == "list.txt"
