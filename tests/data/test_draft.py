"""The spec that a look at the images makes."""

from __future__ import annotations

from pathlib import Path

import pytest

from ttame_core import spec
from ttame_core.audits.specification import open_spec
from ttame_core.data.annotations import REGISTRY as ANNOTATIONS
from ttame_core.data.draft import draft, name_of
from ttame_core.data.kinds import complete
from ttame_core.data.survey import Survey
from ttame_core.errors import UserError

SOURCE = spec.Source(kind="folder", path="/data/zoo: of birds #1")
BOXES = spec.Annotations(kind="voc", path="/data/boxes")


def found(train: int = 300, annotations: spec.Annotations | None = None) -> Survey:
    images = {"heron": {"train": train, "test": 40}, "teal": {"train": 0, "test": 10}}
    dataset = spec.Dataset(name="zoo", source=SOURCE, annotations=annotations)
    objects = {"heron": ["beak", "wing"], "teal": ["wing"]}
    return Survey(dataset, images, 30, objects, 50, (40, 500, 3000), [])


def written(tmp_path: Path, text: str) -> spec.AuditSpec:
    (tmp_path / "zoo.yaml").write_text(text)
    return open_spec(tmp_path / "zoo.yaml")


def test_it_loads_and_says_what_was_found(tmp_path: Path) -> None:
    text = draft("zoo", found(annotations=BOXES), [], "zoo.yaml")
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
    audit = written(tmp_path, draft("zoo", found(), [], "zoo.yaml"))
    assert [e.name for e in audit.explainers] == ["ttame", "gradcam", "random"]
    assert audit.dataset.annotations is None


def test_few_images_are_trained_on_in_small_batches(tmp_path: Path) -> None:
    audit = written(tmp_path, draft("zoo", found(train=20), [], "zoo.yaml"))
    assert audit.training.batch_size == audit.backbones[0].fit.batch_size == 5


def test_models_with_other_classes_are_trained_further(tmp_path: Path) -> None:
    models = ["resnet18", "torchvision/resnet18", "mylib.nets:make"]
    audit = written(tmp_path, draft("zoo", found(), models, "zoo.yaml"))
    first, second, own = audit.backbones
    assert first.pretrained
    assert first.fit == second.fit == spec.Fit(epochs=10)
    assert own.fit is None
    with pytest.raises(UserError, match=r"unknown model resnet19: .* Did you mean resnet1"):
        draft("zoo", found(), ["resnet19"], "zoo.yaml")
    with pytest.raises(UserError, match="two backbones are called resnet18"):
        draft("zoo", found(), ["resnet18", "resnet18"], "zoo.yaml")


def test_the_classes_are_those_of_the_weights_that_are_named(tmp_path: Path) -> None:
    models = ["vit_base_patch16_224", "vit_base_patch16_224.augreg_in21k"]
    text = draft("zoo", found(), models, "zoo.yaml")
    assert "Its 1000 classes are not the 2" in text
    assert "Its 21843 classes are not the 2" in text


def test_names() -> None:
    assert name_of("/data/My Birds/images") == "My-Birds"
    assert name_of("/data/list.txt") == "list.txt"
