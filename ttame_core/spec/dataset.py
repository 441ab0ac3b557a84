"""The sections of a spec about data: where pictures and annotations lie."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field, field_validator

from ttame_core.spec.base import Location, Name, Place, Section, Seed, Split


class ShapesSource(Section):
    """The embedded data set: drawn objects with exact masks (see `ttame_core.data.shapes`)."""

    kind: Literal["shapes"]
    train: int = Field(3000, ge=0)
    val: int = Field(300, ge=0)
    test: int = Field(600, ge=0)
    size: int = Field(96, ge=32, le=2048, description="side of the square pictures, pixels")
    seed: Seed = 0


class FolderSource(Section):
    """Images in `<path>/<class>/`; with one folder per split, `path: {train: …, test: …}`."""

    kind: Literal["folder"]
    path: Location


class ListSource(Section):
    """Text files of `path label` lines, as ImageNet's; paths are relative to `root`."""

    kind: Literal["list"]
    path: Location
    root: Place


class ManifestSource(Section):
    """CSV or Parquet with a row per image; `split` is used where the file has such a column."""

    kind: Literal["manifest"]
    path: Location
    root: Place | None = Field(
        None, description="of relative image paths; default: beside the file"
    )
    image_column: str = "path"
    label_column: str = "label"
    split_column: str = "split"


Source = Annotated[
    ShapesSource | FolderSource | ListSource | ManifestSource, Field(discriminator="kind")
]


class VocAnnotations(Section):
    """PASCAL VOC XML, matched to images by class folder and stem."""

    kind: Literal["voc"]
    path: Location
    objects: dict[str, list[str]] = Field(
        default_factory=dict, description="object names that count, per image class; default: all"
    )


class CocoAnnotations(Section):
    """COCO JSON, matched to images by file name."""

    kind: Literal["coco"]
    path: Location
    objects: dict[str, list[str]] = Field(default_factory=dict)


class MaskAnnotations(Section):
    """PNG masks at the images' relative paths; 0 is background, any other value an object."""

    kind: Literal["masks"]
    path: Location


Annotations = Annotated[
    VocAnnotations | CocoAnnotations | MaskAnnotations, Field(discriminator="kind")
]


class Dataset(Section):
    name: Name
    source: Source
    annotations: Annotations | None = None
    splits: dict[Split, float] = Field(
        default_factory=lambda: {"train": 0.7, "val": 0.1, "test": 0.2},
        description="shares of the images that the source itself puts in no split",
    )
    classes: list[str] | None = Field(
        None, description="class names in the classifiers' order; default: sorted"
    )
    samples_per_shard: int = Field(1000, ge=1, description="at most about this many")
    max_size: int | None = Field(
        None, ge=16, description="longest side in pixels; larger images are re-encoded"
    )
    seed: Seed = Field(0, description="of the order of the samples and of the splits")

    @field_validator("splits")
    @classmethod
    def _shares(cls, splits: dict[Split, float]) -> dict[Split, float]:
        if not splits or min(splits.values()) < 0 or abs(sum(splits.values()) - 1) > 1e-6:
            raise ValueError("shares must not be negative and must add up to 1")
        # An image's split follows from where its hash falls: the order of the YAML says nothing.
        return {name: splits[name] for name in get_args(Split) if name in splits}
