"""Labels are translated for each classifier, and its classes have names in SQL."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from tiny import shard_all

from ttame_core import spec
from ttame_core.audits.specification import complete
from ttame_core.backbones import Backbone, load_backbone
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY
from ttame_core.lake import Lake
from ttame_core.lake.query.connection import leaderboard, run_query
from ttame_core.stages.explain import WantedMaps, explain_shard
from ttame_core.stages.matched import match_of, read_sentences, write_match
from ttame_core.stages.provenance import Provenance
from ttame_core.stages.shard import StoredShard

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}


class ByColour(torch.nn.Module):
    """A classifier that is always right: of the channel with the most light."""

    def __init__(self, order: list[int]) -> None:
        super().__init__()
        self.order = order

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=(2, 3))[:, self.order]


def rgb() -> torch.nn.Module:
    """Red, green, blue."""
    return ByColour([0, 1, 2])


def bgr() -> torch.nn.Module:
    """Blue, green, red."""
    return ByColour([2, 1, 0])


def grb_of_twelve() -> torch.nn.Module:
    """Twelve classes, of which the last three are green, red and blue."""

    class Many(ByColour):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return torch.cat([images.new_zeros(len(images), 9) - 9, super().forward(images)], 1)

    return Many([1, 0, 2])


def backbone(name: str, **settings: Any) -> dict[str, Any]:
    spec.trust(__name__)
    return {"name": name, "model": f"{__name__}:{name}", "taps": [], **settings}


def explained(
    tmp_path: Path, names: dict[str, str], backbones: list[dict[str, Any]], **dataset: Any
) -> Provenance:
    """Explain pictures of plain colours: the folder of each colour has the name given."""
    for colour, name in names.items():
        (tmp_path / f"images/{name}").mkdir(parents=True, exist_ok=True)
        for shade in (1, 2):
            image = Image.new("RGB", (32, 32), tuple(c // shade for c in COLOURS[colour]))
            image.save(tmp_path / f"images/{name}/{colour}{shade}.png")
    audit = complete(
        spec.AuditSpec.model_validate(
            {
                "name": "a",
                "dataset": {
                    "name": "colours",
                    "source": {"kind": "folder", "path": {"test": str(tmp_path / "images")}},
                    **dataset,
                },
                "backbones": backbones,
                "explainers": ["center"],
            }
        )
    )
    provenance = Provenance(audit, Lake(tmp_path / "lake"))
    shard_all(audit.dataset, provenance.lake)
    (center,) = audit.explainers
    for settings in audit.backbones:
        net: Backbone = load_backbone(settings)
        match = match_of(provenance, settings, net)
        write_match(provenance, settings.name, match)
        for shard, _ in provenance.shards("test"):
            stored = StoredShard(provenance.lake, "colours", shard, match)
            maps = provenance.maps(settings, center, shard)
            wanted = [WantedMaps("center", REGISTRY["center"](net), maps)]
            explain_shard(stored, net, wanted, "predicted", audit.compute)
    return provenance


def accuracies(provenance: Provenance) -> dict[str, float]:
    rows = leaderboard(provenance.lake).to_pylist()
    return {row["backbone"]: row["value"] for row in rows if row["metric"] == "accuracy"}


def test_class_lists_of_their_own_in_one_audit(tmp_path: Path) -> None:
    twelve = [*(f"other {n}" for n in range(9)), "Green", "red", "BLUE"]
    provenance = explained(
        tmp_path,
        {colour: colour for colour in COLOURS},
        [
            backbone("rgb", class_names=["red", "green", "blue"]),
            backbone("bgr", class_names=["blue", "green", "red"]),
            backbone("grb_of_twelve", class_names=twelve),
        ],
    )
    assert accuracies(provenance) == {"rgb": 100, "bgr": 100, "grb_of_twelve": 100}
    rows = run_query(
        provenance.lake,
        "SELECT DISTINCT backbone, class, predicted_class, predicted FROM predictions "
        "ORDER BY backbone, predicted",
    ).to_pylist()
    assert [(r["backbone"], r["class"], r["predicted_class"], r["predicted"]) for r in rows] == [
        ("bgr", "blue", "blue", 0),
        ("bgr", "green", "green", 1),
        ("bgr", "red", "red", 2),
        ("grb_of_twelve", "Green", "Green", 9),
        ("grb_of_twelve", "red", "red", 10),
        ("grb_of_twelve", "BLUE", "BLUE", 11),
        ("rgb", "red", "red", 0),
        ("rgb", "green", "green", 1),
        ("rgb", "blue", "blue", 2),
    ]
    assert read_sentences(provenance)["bgr"] == ("3 of 3 classes of the data set matched by name.")


def test_a_mapping_by_the_spec_and_by_the_backbone(tmp_path: Path) -> None:
    provenance = explained(
        tmp_path,
        {"red": "rosso", "green": "verde", "blue": "blu"},
        [
            backbone("rgb", class_names=["red", "green", "blue"]),
            backbone("bgr", labels={"blu": 0, "verde": 1, "rosso": 2}),
        ],
        labels={"rosso": "red", "verde": "green", "blu": "blue"},
    )
    assert accuracies(provenance) == {"rgb": 100, "bgr": 100}
    names = run_query(
        provenance.lake, "SELECT name, classes FROM classes WHERE backbone = 'bgr' ORDER BY number"
    ).to_pylist()
    assert [row["name"] for row in names] == ["blu", "verde", "rosso"]


def test_one_numbered_folder(tmp_path: Path) -> None:
    provenance = explained(tmp_path, {"blue": "2"}, [backbone("rgb")])
    assert accuracies(provenance) == {"rgb": 100}
    classes = run_query(provenance.lake, "SELECT DISTINCT class FROM predictions").to_pylist()
    assert classes == [{"class": "class 2"}]


def test_classes_that_the_classifier_does_not_have(tmp_path: Path) -> None:
    provenance = explained(
        tmp_path,
        {"red": "red", "green": "emerald", "blue": "blue"},
        [backbone("rgb", class_names=["blue", "green", "red"])],
    )
    assert accuracies(provenance) == {"rgb": 0}  # its class names are wrong, on all four images
    rows = run_query(
        provenance.lake, "SELECT label, count(*) AS images FROM predictions GROUP BY ALL ORDER BY 1"
    ).to_pylist()
    assert rows == [{"label": n, "images": 2} for n in (0, 2, None)]
    assert "left out of the accuracy: emerald" in read_sentences(provenance)["rgb"]
    unknown = run_query(provenance.lake, "FROM classes WHERE number IS NULL").to_pylist()
    assert [row["classes"] for row in unknown] == [["emerald"]]


def test_nothing_in_common(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot be matched with the 12 of backbone grb_of_twelve"):
        explained(tmp_path, {"red": "a", "green": "b"}, [backbone("grb_of_twelve")])


def test_images_without_labels(tmp_path: Path) -> None:
    provenance = explained(tmp_path, {"red": ".", "green": "."}, [backbone("rgb")])
    assert accuracies(provenance) == {}
    assert read_sentences(provenance)["rgb"] == (
        "The images have no labels: accuracy is not known."
    )
    rows = run_query(
        provenance.lake, "SELECT DISTINCT class, predicted_class FROM predictions ORDER BY 2"
    ).to_pylist()
    assert rows == [{"class": None, "predicted_class": f"class {n}"} for n in (0, 1)]


def test_what_decides_the_match_is_in_the_fingerprint(tmp_path: Path) -> None:
    names = {colour: colour for colour in COLOURS}
    sections = [backbone("rgb", class_names=["red", "green", "blue"])]
    first = explained(tmp_path, names, sections)
    (settings,), (center,) = first.audit.backbones, first.audit.explainers
    shard = first.shards("test")[0][0]
    assert first.missing_maps(settings, shard) == []
    for changed in (
        settings.model_copy(update={"class_names": ["blue", "green", "red"]}),
        settings.model_copy(update={"labels": {"red": "blue"}}),
    ):
        assert first.missing_maps(changed, shard) == [center]


def test_images_of_a_checkpoint_by_wnid(tmp_path: Path) -> None:
    args = {"channels": [8, 16, 24, 32], "stem_width": 8}
    torch.manual_seed(0)
    net = timm.create_model("resnet10t", **args)
    save_file(net.state_dict(), tmp_path / "net.safetensors")
    section = {
        "name": "net",
        "model": "resnet10t",
        "checkpoint": str(tmp_path / "net.safetensors"),
        "args": args,
        "preprocessing": {"input_size": [64, 64]},
    }
    provenance = explained(tmp_path, {"red": "n01440764", "blue": "n03028079"}, [section])
    rows = run_query(
        provenance.lake, "SELECT name, wnid, classes FROM classes WHERE rule = 'wnid'"
    ).to_pylist()
    assert [(row["name"], row["wnid"], row["classes"]) for row in rows] == [
        ("tench", "n01440764", ["n01440764"]),
        ("church", "n03028079", ["n03028079"]),
    ]
    labels = run_query(provenance.lake, "SELECT DISTINCT label FROM maps ORDER BY 1").to_pylist()
    assert [row["label"] for row in labels] == [0, 497]
