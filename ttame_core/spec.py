"""The audit spec: one validated YAML file says what is audited, how, and with what.

Everything but the data set and the backbones has a default. `${NAME}` in the file is filled from
`--var NAME=VALUE` or from the environment; `${here}` is the folder of the file.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)

from ttame_core.errors import UserError, nearest
from ttame_core.places import without_credentials

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")
# Names become folder names of the lake, on every file system and object store.
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._+-]*$", max_length=120)]
Place = Annotated[str, AfterValidator(without_credentials)]  # a path or URL
Location = Place | dict[Split, Place]


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ShapesSource(Section):
    """The embedded data set: drawn objects with exact masks (see `ttame_core.data.shapes`)."""

    kind: Literal["shapes"]
    train: int = Field(3000, ge=0)
    val: int = Field(300, ge=0)
    test: int = Field(600, ge=0)
    size: int = Field(96, ge=32, le=2048, description="side of the square pictures, pixels")
    seed: int = 0


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
    seed: int = Field(0, description="of the order of the samples and of the splits")

    @field_validator("splits")
    @classmethod
    def _shares(cls, splits: dict[Split, float]) -> dict[Split, float]:
        if not splits or min(splits.values()) < 0 or abs(sum(splits.values()) - 1) > 1e-6:
            raise ValueError("shares must not be negative and must add up to 1")
        # An image's split follows from where its hash falls: the order of the YAML says nothing.
        return {name: splits[name] for name in get_args(Split) if name in splits}


class Preprocessing(Section):
    """Overrides of what the model's own configuration says."""

    input_size: tuple[int, int] | None = Field(None, description="height, width")
    crop_pct: float | None = Field(None, gt=0, le=1)
    crop_mode: Literal["center", "squash", "border"] | None = None
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos", "box"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None


class Fit(Section):
    """Training of a classifier on the data set, so that a user without one can start."""

    epochs: int = Field(60, ge=1)
    batch_size: int = Field(32, ge=2)
    optimizer: Literal["adamw", "muon"] = "adamw"
    learning_rate: float = Field(1e-3, gt=0, description="peak of the one-cycle schedule")
    weight_decay: float = Field(0.05, ge=0, description="on weights; none on biases and norms")
    crop_scale: float = Field(0.5, gt=0, le=1, description="least share of the image in a crop")
    vertical_flip: bool = False
    occlusion: float = Field(
        0.5, ge=0, le=1, description="share of the images that are occluded (see fitting.occlude)"
    )
    seed: int = 0


class Backbone(Section):
    """A frozen classifier: its architecture and where its weights come from."""

    model: str = Field(
        description="a timm model name, with or without a pretrained tag; torchvision/NAME; a "
        "folder of a Hugging Face image classifier; or package.module:function"
    )
    name: Name = Field(
        "", description="in the lake; default: the model's name", validate_default=False
    )
    pretrained: bool = False
    checkpoint: str | None = None
    fit: Fit | None = None
    num_classes: int | None = Field(None, ge=2)
    args: dict[str, Any] = Field(default_factory=dict, description="of the model")
    trust_remote_code: bool = Field(
        False, description="run the Python files that come with a Hugging Face folder"
    )
    taps: list[int | str] | None = Field(
        None,
        description="indices into the model's feature_info, or module names; default: last 3; []: "
        "a black box, only its logits are looked at",
    )
    head: str | None = Field(
        None, description="safetensors of a trained T-TAME head, in place of training one"
    )
    preprocessing: Preprocessing = Preprocessing()

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, str):
            value = {"model": value, "pretrained": True}
        if isinstance(value, dict) and isinstance(value.get("model"), str):
            model = re.sub(r"^[~./].*/(?=.)", "", value["model"])  # of a path, its last part
            value = {"name": re.sub(r"[^A-Za-z0-9._+-]+", "-", model), **value}
        return value

    @property
    def library(self) -> str:
        """Whose model it is: `timm`, `torchvision`, `huggingface` or `factory`."""
        if re.fullmatch(r"[\w.]+:[\w.]+", self.model):
            return "factory"
        if self.model.startswith("torchvision/"):
            return "torchvision"
        return "huggingface" if re.match(r"[~./]|\w+/", self.model) else "timm"

    @property
    def has_weights(self) -> bool:
        """Without training: given here, or brought along by a folder or a function."""
        given = self.pretrained or bool(self.checkpoint)
        return given or self.library in ("huggingface", "factory")

    @model_validator(mode="after")
    def _check_weights(self) -> Backbone:
        if not (self.has_weights or self.fit):
            raise ValueError(
                f"backbone {self.name} has no weights: give it `pretrained: true`, "
                "`checkpoint: FILE` or `fit: {…}`"
            )
        if self.pretrained and self.checkpoint:
            raise ValueError(
                f"backbone {self.name} has both `pretrained` and `checkpoint`: leave one out"
            )
        return self


# `tuned`, the defaults below, was found by measurement: docs/training.md. The published recipe is
# for some 320,000 steps; within a few hundred its step size leaves the head where it began.
RECIPES: dict[str, dict[str, Any]] = {
    "tuned": {},
    "paper": {
        "epochs": 8,
        "min_steps": 0,
        "optimizer": "sgd",
        "learning_rate": 1e-3,
        "lambda_area": 2.0,
        "lambda_confidence": 1.5,
        "objective": "cross_entropy",
        "map": "class",
        "masking": "auto",
        "noise": 0.0,
    },
}


class Training(Section):
    """Training of attention heads. Other constants than the published: docs/training.md."""

    recipe: Literal["tuned", "paper"] = "tuned"
    epochs: int = Field(4, ge=1)
    min_steps: int = Field(800, ge=0, description="small data sets get the epochs that this takes")
    batch_size: int = Field(32, ge=2)
    optimizer: Literal["sgd", "adamw"] = "adamw"
    learning_rate: float = Field(5e-3, gt=0, description="peak of the one-cycle schedule")
    momentum: float = Field(0.9, ge=0, lt=1)
    weight_decay: float = Field(5e-4, ge=0, description="on weights; none on biases")
    lambda_variation: float = Field(0.01, ge=0, description="λ1")
    lambda_area: float = Field(4.0, ge=0, description="λ2")
    lambda_confidence: float = Field(2.0, ge=0, description="λ3")
    area_exponent: float = Field(0.3, gt=0, description="λ4")
    objective: Literal["confidence", "cross_entropy"] = Field(
        "confidence",
        description="cross_entropy: of the masked image, as published; confidence: what it lost",
    )
    map: Literal["attention", "class"] = Field(
        "attention", description="what is shown: class maps, as published, or attention maps"
    )
    masking: Literal["both", "auto", "raw", "normalised"] = Field(
        "both",
        description="both: half of a batch by attention, half as metrics mask; published: raw "
        "(before normalisation) for CNNs and normalised for transformers, which is auto",
    )
    noise: float = Field(
        4.0,
        ge=0,
        description="standard deviation of smooth noise on class maps, which fades out in the "
        "first quarter of the steps; published: 0",
    )
    labels: Literal["predicted", "permuted"] = Field(
        "predicted",
        description="permuted: each image gets another's class, for the random-label check",
    )
    validation_samples: int = Field(200, ge=0, description="of split val, up to 8 times")
    checkpoint_steps: int = Field(500, ge=1, description="steps between checkpoints")
    seed: int = 0

    @model_validator(mode="before")
    @classmethod
    def _recipe(cls, value: Any) -> Any:
        if isinstance(value, dict):
            recipe = value.get("recipe", "tuned")
            return {**(RECIPES.get(recipe, {}) if isinstance(recipe, str) else {}), **value}
        return value


def recipe_keys(name: str) -> dict[str, Any]:
    """All that any recipe sets, as this one has it."""
    own = Training.model_validate({"recipe": name})
    return {key: getattr(own, key) for recipe in RECIPES.values() for key in recipe}


def training_keys(given: dict[str, Any]) -> dict[str, Any]:
    """Some keys of a training section, checked. Raises ValueError in one line."""
    try:
        checked = Training.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            allowed = sorted(Training.model_fields)
            raise ValueError(
                f"unknown key {key}; allowed: {', '.join(allowed)}." + nearest(key, allowed)
            ) from None
        raise ValueError(f"{key}: {first['msg']} (got {first['input']!r})") from None
    return {key: getattr(checked, key) for key in given}


class Maps(Section):
    """What is explained."""

    split: Split = "test"
    images: int | None = Field(
        None,
        ge=1,
        description="the first so many of the split, which are in no order; default: all",
    )
    targets: str | list[int] = Field(
        "predicted", description="predicted, label, top-K, or a list of class indices"
    )
    dtype: Literal["float16", "uint8"] = Field(
        "float16", description="of the stored values; uint8: to the nearest 255th (docs/scale.md)"
    )

    @field_validator("targets", mode="before")
    @classmethod
    def _targets(cls, targets: Any) -> Any:
        indices = isinstance(targets, list) and all(type(t) is int and t >= 0 for t in targets)
        words = isinstance(targets, str) and re.fullmatch(r"predicted|label|top-[1-9]\d*", targets)
        if not words and not (indices and targets):
            raise ValueError("allowed: predicted, label, top-K, or a list of class indices")
        return targets


class Explainer(Section):
    """One explainer of an audit: its name, or `- rise: {masks: 8000, images: 200}`.

    Beside `name` and `images`, the keys are the method's own (`ttame explainers` lists them). One
    trained on permuted labels is called `<method>-permuted` unless the spec says otherwise.
    """

    method: str
    name: Name = Field("", description="in the lake; default: the method", validate_default=False)
    images: int | None = Field(
        None, ge=1, description="explain the first so many of the split; default: as `maps`"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="the method's own"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        value = _unfolded(value, "method")
        if isinstance(value, dict) and isinstance(value.get("method"), str):
            settings = value.get("settings")
            training = settings.get("training") if isinstance(settings, dict) else None
            permuted = isinstance(training, dict) and training.get("labels") == "permuted"
            return {"name": value["method"] + ("-permuted" if permuted else ""), **value}
        return value

    @field_validator("settings")
    @classmethod
    def _known(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        from ttame_core.explainers import REGISTRY  # slow to import, and itself reads specs

        return _checked("explainer", info.data.get("method", ""), settings, REGISTRY)

    @property
    def training(self) -> dict[str, Any]:
        """Its own keys of the training section."""
        return self.settings.get("training", {})

    @property
    def auxiliary(self) -> Backbone | None:
        """Another classifier that it reads."""
        found = self.settings.get("auxiliary")
        return Backbone.model_validate(found) if found else None


class Metric(Section):
    """One family of metrics: its name, or `- confidence: {keep: [50, 15], images: 200}`."""

    family: str
    images: int | None = Field(
        None, ge=1, description="score the first so many of the split; default: all that have maps"
    )
    settings: dict[str, Any] = Field(
        default_factory=dict, validate_default=True, description="the family's own"
    )

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        return _unfolded(value, "family")

    @field_validator("settings")
    @classmethod
    def _known(cls, settings: dict[str, Any], info: ValidationInfo) -> dict[str, Any]:
        from ttame_core.lake.scores import schema_of
        from ttame_core.metrics import REGISTRY

        family = info.data.get("family", "")
        checked = _checked("metric", family, settings, REGISTRY)
        schema_of(family)  # what another package adds may say nothing of its rows
        return checked


def _unfolded(value: Any, key: str) -> Any:
    """`name` and `{name: {images: …, setting: …}}` as the mapping they stand for."""
    if isinstance(value, str):
        value = {value: None}
    if not isinstance(value, dict) or key in value or len(value) != 1:
        return value
    ((chosen, about),) = value.items()
    if not isinstance(about, dict | None):
        return value
    own = dict(about or {})
    common = {k: own.pop(k) for k in ("name", "images") if k in own}
    return {key: chosen, **common, "settings": own}


def _checked(
    kind: str, name: str, settings: dict[str, Any], registry: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of one entry of a registry, with their defaults."""
    if name not in registry:
        allowed = ", ".join(sorted(registry))
        raise ValueError(f"unknown {kind} {name}; allowed: {allowed}." + nearest(name, registry))
    own: type[BaseModel] = registry[name].Settings
    try:
        return own.model_validate(settings).model_dump(mode="json")
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            allowed = sorted({"images", *own.model_fields})
            raise ValueError(
                f"{name} has no setting {key}; allowed: {', '.join(allowed)}."
                + nearest(key, allowed)
            ) from None
        message = words_of(error)
        raise ValueError(f"{key} of {name}: {message} (got {first['input']!r})") from None


class Evaluation(Section):
    metrics: list[Metric] = Field(
        default_factory=lambda: [Metric(family=f) for f in ("confidence", "localization", "shape")],
        min_length=1,
    )
    minimum_discrimination: float = Field(
        30.0, description="points of AD@15 between random and oracle under which AD/IC rank nothing"
    )

    @field_validator("metrics")
    @classmethod
    def _distinct(cls, metrics: list[Metric]) -> list[Metric]:
        return _distinct("metrics", metrics, [m.family for m in metrics])


CHANGED_MAPS = "changed_maps"  # what a gate can check beside metrics


class Gate(Section):
    """What must hold of the audit: `- AD@15: {explainer: ttame, worse_by: 2}`.

    metric: its full name, or changed_maps: the percentage of images whose map's correlation with
    the last audit's is under `correlation`. One of worse_by, at_least and at_most.
    """

    metric: str
    backbone: str = Field("*", description="pattern of names")
    explainer: str | None = Field(
        None, description="pattern of names; default: all but yardsticks such as random"
    )
    worse_by: float | None = Field(
        None,
        ge=0,
        description="in the metric's unit: more than this since the last audit, and beyond chance "
        "over the same images, fails",
    )
    at_least: float | None = None
    at_most: float | None = None
    correlation: float | None = Field(None, ge=-1, le=1, description="of changed_maps; else 0.8")

    @model_validator(mode="before")
    @classmethod
    def _shorthand(cls, value: Any) -> Any:
        if isinstance(value, dict) and "metric" not in value and len(value) == 1:
            ((metric, about),) = value.items()
            if isinstance(about, dict):
                value = {"metric": metric, **about}
        if isinstance(value, dict) and value.get("metric") == CHANGED_MAPS:
            value = {"correlation": 0.8, **value}
        return value

    @model_validator(mode="after")
    def _one_condition(self) -> Gate:
        conditions = ("worse_by", "at_least", "at_most")
        given = [name for name in conditions if getattr(self, name) is not None]
        if self.metric == CHANGED_MAPS and given != ["at_most"]:
            raise ValueError(f"the gate {self} takes `at_most`, a percentage of the images")
        if len(given) != 1:
            raise ValueError(
                f"the gate {self} has {len(given) or 'no'} conditions: give it one of "
                + ", ".join(conditions)
            )
        if self.correlation is not None and self.metric != CHANGED_MAPS:
            raise ValueError(f"the gate {self} has a `correlation`, which only changed_maps takes")
        return self

    def __str__(self) -> str:
        """As it stands in a spec."""
        given = self.model_dump(exclude={"metric"}, exclude_defaults=True)
        settings = (
            f"{k}: {v:g}" if isinstance(v, float) else f"{k}: {v}" for k, v in given.items()
        )
        return f"{self.metric}: {{{', '.join(settings)}}}"


class Compute(Section):
    device: str = Field("auto", pattern=r"^(auto|cpu|cuda(:\d+)?)$")
    devices: int = Field(
        1, ge=1, description="GPUs, or processes on the CPU, that train one head together"
    )
    batch_size: int = Field(32, ge=1, description="images per forward pass of maps and metrics")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32",
        description="of training and maps, as automatic mixed precision; metrics are always "
        "float32. auto: bfloat16 where the device multiplies matrices in it (docs/cost.md)",
    )
    channels_last: bool = Field(True, description="memory layout of convolutional networks")
    compile: bool = Field(False, description="torch.compile the backbone")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="threads that decode images, and shards written at once",
    )
    engine: Literal["threads", "processes", "dask", "ray"] = Field(
        "threads",
        description="threads: networks run one after another and take the whole machine; "
        "processes: several at once on this machine; dask, ray: on a cluster (docs/scale.md)",
    )
    address: str | None = Field(
        None, description="of a dask or ray cluster; default: one on this machine, for this audit"
    )
    at_once: int | None = Field(
        None,
        ge=1,
        description="units at once, of any engine but threads; default: one per GPU, or per four "
        "cores; of a cluster with an address, what it has room for",
    )

    @model_validator(mode="after")
    def _all_devices(self) -> Compute:
        if self.devices > 1 and ":" in self.device:
            raise ValueError(f"{self.devices} devices cannot all be {self.device}: say cuda")
        return self

    @model_validator(mode="after")
    def _engine_of_its_own(self) -> Compute:
        if self.engine == "threads" and self.at_once:
            raise ValueError("at_once needs an engine with several processes, such as processes")
        if self.engine in ("threads", "processes") and self.address:
            raise ValueError(f"only dask and ray have an address, and engine is {self.engine}")
        if self.engine != "threads" and ":" in self.device:
            raise ValueError(
                f"engine {self.engine} shares out the GPUs: say cuda or auto as device"
            )
        return self


def _distinct(kind: str, chosen: list[Any], names: list[str]) -> list[Any]:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(f"two {kind} are called {twice[0]}: give one another `name`")
    return chosen


class AuditSpec(Section):
    name: Name
    dataset: Dataset
    backbones: list[Backbone] = Field(min_length=1)
    explainers: list[Explainer] = Field(
        default_factory=lambda: [
            Explainer(method=method) for method in ("ttame", "gradcam", "random", "oracle")
        ],
        min_length=1,
    )
    training: Training = Training()
    maps: Maps = Maps()
    evaluation: Evaluation = Field(default_factory=Evaluation)
    gates: list[Gate] = Field(
        default_factory=list, description="what fails the audit (docs/schedules.md)"
    )
    compute: Compute = Field(default_factory=Compute)

    @field_validator("gates")
    @classmethod
    def _gates(cls, gates: list[Gate], info: ValidationInfo) -> list[Gate]:
        from ttame_core.gates import check_names

        if gates and {"backbones", "explainers", "evaluation"} <= info.data.keys():
            for gate in gates:
                check_names(
                    gate, **{k: info.data[k] for k in ("backbones", "explainers", "evaluation")}
                )
        return gates

    @field_validator("backbones", "explainers")
    @classmethod
    def _distinct(cls, chosen: list[Any], info: ValidationInfo) -> list[Any]:
        return _distinct(str(info.field_name), chosen, [c.name for c in chosen])

    @model_validator(mode="after")
    def _equal_shares(self) -> AuditSpec:
        batch, devices = self.training.batch_size, self.compute.devices
        if batch % devices:
            raise ValueError(
                f"training.batch_size, {batch}, does not divide among {devices} compute.devices"
            )
        for explainer in self.explainers:
            own = self.training_of(explainer).batch_size if explainer.training else batch
            if own % devices:
                raise ValueError(
                    f"training.batch_size of {explainer.name}, {own}, does not divide among "
                    f"{devices} compute.devices"
                )
        return self

    def training_of(self, explainer: Explainer) -> Training:
        """How an explainer's heads are trained: `training`, and what is other for this one."""
        from ttame_core.explainers import REGISTRY

        return REGISTRY[explainer.method].training_of(self.training, explainer.training)


def load_spec(path: str | Path, variables: Mapping[str, str] | None = None) -> AuditSpec:
    """Read and validate the spec at `path`, `${NAME}` filled from `variables` or the environment.

    Raises UserError with one line per problem: file, line, key, what is wrong, what is allowed.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"cannot read the spec {path}: {error}") from error
    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if twice := _key_given_twice(node):
        line, key = twice.start_mark.line + 1, twice.value
        raise UserError(f"{path}, line {line}, {key}: the key {key} stands there twice")
    if not isinstance(data, dict):
        raise UserError(f"{path} is not an audit spec: it must be a mapping with `name:` and so on")
    here = str(Path(path).resolve().parent)
    data = _fill(data, {**os.environ, "here": here, **(variables or {})}, str(path))
    try:
        return AuditSpec.model_validate(data)
    except ValidationError as error:
        problems = [_problem(e, node) for e in error.errors()]
        raise UserError("\n".join(f"{path}{p}" for p in problems)) from error


def words_of(error: ValidationError) -> str:
    """What is wrong in the first place, in our words where they are ours."""
    return error.errors()[0]["msg"].removeprefix("Value error, ")


def _key_given_twice(node: yaml.Node | None) -> yaml.Node | None:
    """The second of two equal keys of some mapping; None: all differ. YAML would take the last."""
    if isinstance(node, yaml.MappingNode):
        seen: set[str] = set()
        for key, _ in node.value:
            if isinstance(key.value, str) and key.value in seen:
                return key
            seen.add(str(key.value))
        parts = [value for _, value in node.value]
    else:
        parts = node.value if isinstance(node, yaml.SequenceNode) else []
    return next(filter(None, map(_key_given_twice, parts)), None)


def _fill(value: Any, variables: Mapping[str, str], path: str) -> Any:
    if isinstance(value, dict):
        return {k: _fill(v, variables, path) for k, v in value.items()}
    if isinstance(value, list):
        return [_fill(v, variables, path) for v in value]
    if not isinstance(value, str):
        return value

    def look_up(match: re.Match[str]) -> str:
        name = match[1]
        if name not in variables:
            raise UserError(
                f"{path} uses ${{{name}}}, which is not set: "
                f"add --var {name}=VALUE or set the environment variable {name}"
            )
        return variables[name]

    return re.sub(r"\$\{(\w+)\}", look_up, value)


def _problem(error: Any, node: yaml.Node) -> str:
    """One line for one pydantic error: ', line 7, backbones[0].pretraned: unknown key; …'."""
    line, keys, model = node.start_mark.line + 1, "", AuditSpec
    models: list[type[BaseModel]] = [model]
    for part in error["loc"]:
        child = None
        if isinstance(node, yaml.MappingNode):
            for key, value in node.value:
                if key.value == str(part):
                    line, child = key.start_mark.line + 1, value
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int):
            child = node.value[part]
            line = child.start_mark.line + 1
        if child is None and part != error["loc"][-1]:
            models = _union_member(models, str(part))  # a discriminator's value, not a key
            continue
        if child is None and error["type"] not in ("missing", "extra_forbidden"):
            continue
        keys += f"[{part}]" if isinstance(part, int) else f".{part}" if keys else str(part)
        models = _children(models, part) if part != error["loc"][-1] else models
        node = child if child is not None else node
    return f", line {line}, {keys or 'spec'}: {_reason(error, models)}"


def _reason(error: Any, models: list[type[BaseModel]]) -> str:
    allowed = sorted({name for model in models for name in model.model_fields})
    if error["type"] == "extra_forbidden":
        key = str(error["loc"][-1])
        return f"unknown key; allowed: {', '.join(allowed)}.{nearest(key, allowed)}"
    if error["type"] == "missing":
        return "this key is required"
    return error["msg"].removeprefix("Value error, ") + (
        f" (got {error['input']!r})" if not isinstance(error["input"], dict | list) else ""
    )


def _annotated_models(annotation: Any) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    found = []
    for argument in getattr(annotation, "__args__", ()):
        found += _annotated_models(argument)
    return found


def _children(models: list[type[BaseModel]], part: Any) -> list[type[BaseModel]]:
    if isinstance(part, int):
        return models
    found: list[type[BaseModel]] = []
    for model in models:
        if part in model.model_fields:
            found += _annotated_models(model.model_fields[part].annotation)
    return found or models


def _union_member(models: list[type[BaseModel]], kind: str) -> list[type[BaseModel]]:
    chosen = []
    for model in models:
        field = model.model_fields.get("kind")
        if field and kind in getattr(field.annotation, "__args__", ()):
            chosen.append(model)
    return chosen or models
