"""A look at somebody's pictures."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny import jpeg

from ttame_core import spec
from ttame_core.data import survey as surveying
from ttame_core.data.draft import Wanted, draft
from ttame_core.data.survey import Survey, choose_annotations, find_source, survey
from ttame_core.errors import UserError

VOC = """<annotation><object><name>{name}</name><bndbox><xmin>1</xmin><ymin>1</ymin>
<xmax>9</xmax><ymax>9</ymax></bndbox></object></annotation>"""


def write(path: Path, content: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def picture(number: int, size: tuple[int, int] = (40, 30)) -> bytes:
    return jpeg(size, f"#{number:06x}")


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Two classes of 25 images in images/<class>/."""
    for number in range(50):
        label = "cat" if number % 2 else "dog"
        write(tmp_path / f"zoo/images/{label}/{number}.jpg", picture(5000 * number))
    return tmp_path / "zoo"


def look(place: Path) -> Survey:
    dataset = spec.Dataset(name="zoo", source=find_source(str(place)))
    annotations = choose_annotations(dataset)
    return survey(dataset.model_copy(update={"annotations": annotations}))


def test_classes_splits_and_sizes(place: Path) -> None:
    write(place / "images/dog/wide.jpg", picture(1, (90, 20)))
    found = look(place)
    assert {label: sum(counts.values()) for label, counts in found.images.items()} == {
        "cat": 25,
        "dog": 26,
    }
    assert sum(map(found.in_split, spec.SPLITS)) == found.total == found.looked_at == 51
    assert found.sides == (40, 40, 90)
    assert found.annotated == 0
    assert found.dataset.source.path == str(place / "images")
    assert found.problems == []


def test_every_problem_has_its_sentence(place: Path) -> None:
    write(place / "images/cat/broken.jpg", picture(1, (200, 200))[:-200])
    write(place / "images/cat/copy.jpg", picture(5000))
    write(place / "images/loose.jpg", picture(2))
    write(place / "images/dog/large.jpg", picture(3, (2100, 100)))
    write(place / "images/Cats/one.jpg", picture(4))
    (place / "images/empty").mkdir()
    text = "\n".join(look(place).problems)
    assert "1 image left out (lies in no class folder): loose.jpg." in text
    assert "1 folder left out (folder without images): empty." in text
    assert "1 image cannot be read: cat/broken.jpg (truncated)." in text
    assert "1 image repeated byte for byte" in text
    assert {"cat/1.jpg", "cat/copy.jpg"} <= set(text.replace(".\n", " ").split())
    assert "1 image longer than 2048 pixels" in text
    assert "dog/large.jpg (2100×100)" in text
    assert "1 class with fewer than 20 images: Cats (1)." in text
    assert "The class folders Cats and cat may be one class under other names." in text
    assert "1 class without images in" in text


def test_voc_beside_the_images(place: Path) -> None:
    for number in range(50):
        label, name = ("cat", "paw") if number % 2 else ("dog", "tail")
        write(place / f"labels/{label}/{number}.xml", VOC.format(name=name))
    write(place / "labels/cat/1.xml", "no xml")
    write(place / "labels/cat/of-nothing.xml", VOC.format(name="paw"))
    found = look(place)
    assert found.dataset.annotations == spec.Annotations(kind="voc", path=f"{place}/labels")
    assert found.annotated == 50
    assert found.objects == {"cat": ["paw"], "dog": ["tail"]}
    text = "\n".join(found.problems)
    assert "1 annotation cannot be read: cat/1 (not XML" in text
    assert "1 annotation left out (belongs to no image): cat/of-nothing." in text


def test_coco_and_masks(place: Path, tmp_path: Path) -> None:
    write(place / "package.json", '{"name": "not COCO"}')
    coco = {
        "images": [
            {"id": n, "file_name": f"{'cat' if n % 2 else 'dog'}/{n}.jpg"} for n in range(9)
        ],
        "annotations": [{"image_id": 3, "category_id": 1, "bbox": [1, 1, 5, 5]}],
        "categories": [{"id": 1, "name": "whisker"}],
    }
    write(place / "boxes.json", json.dumps(coco))
    found = look(place)
    assert found.dataset.annotations == spec.Annotations(kind="coco", path=f"{place}/boxes.json")
    assert found.annotated == 9
    assert found.objects["cat"] == ["whisker"]

    for number in range(50):  # masks of all images fit better than boxes of some
        target = place / f"masks/{'cat' if number % 2 else 'dog'}/{number}.png"
        target.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.ones((30, 40), np.uint8)).save(target)
    found = look(place)
    assert found.dataset.annotations == spec.Annotations(kind="masks", path=f"{place}/masks")
    assert found.annotated == 50


def test_folders_of_splits_and_lists(tmp_path: Path) -> None:
    for split, count in (("train", 6), ("valid", 2), ("test", 3)):
        for number in range(count):
            write(tmp_path / f"{split}/bird/{number}.jpg", picture(hash((split, number)) % 2**24))
    write(tmp_path / "train/fish/0.jpg", picture(9))
    source = find_source(str(tmp_path))
    assert source.path == {
        s: f"{tmp_path}/{d}" for s, d in zip(spec.SPLITS, ("train", "valid", "test"), strict=True)
    }
    found = look(tmp_path)
    assert found.images["bird"] == {"train": 6, "val": 2, "test": 3}
    assert "1 class without images in test: fish." in found.problems
    write(tmp_path / "list.txt", "train/fish/0.jpg 0\n")
    assert find_source(f"{tmp_path}/list.txt").kind == "list"
    write(tmp_path / "all.csv", "path,label\n")
    assert find_source(f"{tmp_path}/all.csv").kind == "manifest"


def test_of_many_images_some_are_looked_at(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(surveying, "READ", 7)
    told: list[tuple[int, int]] = []
    dataset = spec.Dataset(name="zoo", source=find_source(str(place)))
    found = survey(dataset, lambda done, total: told.append((done, total)))
    assert found.looked_at == len(found.sides) + 4 == 7
    assert found.total == 50
    assert told == [(n, 7) for n in range(1, 8)]


def test_places_with_nothing_in_them(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no folder"):
        find_source(f"{tmp_path}/nowhere")
    write(tmp_path / "notes/a.txt", "")
    with pytest.raises(UserError, match="no class folders with images"):
        find_source(str(tmp_path))


def test_images_without_labels(place: Path) -> None:
    flat = place / "images/cat"
    found = look(flat)
    assert found.dataset.source.path == str(flat)
    assert (found.total, list(found.images)) == (25, [""])
    assert found.problems == [
        "The images have no labels, so that the accuracy of a classifier will not be known."
    ]
    assert find_source(f"{flat}/*.jpg").kind == find_source(str(flat / "1.jpg")).kind == "glob"
    text = draft("flat", found, Wanted(["resnet18"]), "flat.yaml")
    assert "25 images without labels" in text
    assert "fit" not in text.split("backbones:")[1].split("explainers")[0]
    with pytest.raises(UserError, match="name one with --backbone"):
        draft("flat", found, Wanted(), "flat.yaml")
