"""Descriptions of what makes each file of an audit, and so which files are still to be made.

A file's fingerprint covers the content of its inputs, the settings on which it depends, and the
weights, and nothing else: after a change, only the files that depend on it are made again.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

from ttame_core import spec
from ttame_core.backbones import file_hash, own_weights
from ttame_core.backbones.devices import device_of, precision_of
from ttame_core.data.index import Shard, load_classes, load_present, load_shards
from ttame_core.data.matching import DataClasses
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, training_of
from ttame_core.heads.files import is_whole_head
from ttame_core.lake import (
    Lake,
    dataset_file,
    fingerprint,
    fitted_folder,
    head_folder,
    maps_file,
    pasted_file,
    scores_file,
)
from ttame_core.lake.schemas import HEAD as HEAD_HASH
from ttame_core.lake.schemas import LOST, WEIGHTS
from ttame_core.lake.store import MADE_FROM
from ttame_core.metrics import REGISTRY as FAMILIES
from ttame_core.stages.explain import ALL
from ttame_core.stages.roles import rivals

# Versions of the files, to be increased when the code makes other content from the same inputs.
FIT, HEAD, MAPS, SCORES, PASTED = 1, 2, 1, 1, 5
TOGETHER = 1000  # files whose metadata are in memory at a time


@dataclass(frozen=True)
class Work:
    """A piece of an audit's work.

    Attributes:
        stage: fit, train, explain, evaluate or paste.
        backbone: name of the backbone.
        explainer: name of the explainer; empty for the stages fit and paste.
        shard: name of the shard; empty for the stages fit, train and paste.
        unmade: paths of its files that the lake does not hold, made from what the spec says now.
    """

    stage: str
    backbone: str
    explainer: str = ""
    shard: str = ""
    unmade: Sequence[str] = ()

    @property
    def done(self) -> bool:
        """Whether the lake holds the result."""
        return not self.unmade


@dataclass(frozen=True)
class Provenance:
    """The descriptions of what makes each file of one audit in one lake.

    The data set must be in the lake already.

    Attributes:
        audit: the spec.
        lake: the workspace.
        imports: whether functions that make classifiers may be called to identify their weights;
            otherwise the identity is that of the last run.
    """

    audit: spec.AuditSpec
    lake: Lake
    imports: bool = True

    @property
    def dataset(self) -> str:
        """The name of the data set."""
        return self.audit.dataset.name

    @cached_property
    def classes(self) -> list[str]:
        """The names of the data set's classes, in label order."""
        return load_classes(self.lake, self.dataset)

    @cached_property
    def data_classes(self) -> DataClasses:
        """The classes of the data set, to be matched with those of classifiers."""
        present = load_present(self.lake, self.dataset)
        return DataClasses(self.classes, present, self.audit.dataset.classes is not None)

    def check(self) -> None:
        """Check that the data set is in the lake.

        Raises:
            UserError: the data set is not in the lake.
        """
        load_shards(self.lake, self.dataset)

    @cached_property
    def _shards(self) -> list[Shard]:
        return load_shards(self.lake, self.dataset)

    def shards(self, split: str) -> list[tuple[str, int]]:
        """Return names and sample counts of a split's shards, without empty ones."""
        of_split = (shard for shard in self._shards if shard.split == split)
        return [(shard.shard, shard.samples) for shard in of_split if shard.samples]

    def samples(self, shard: str) -> int:
        """Return the number of samples in a shard."""
        return next(s.samples for s in self._shards if s.shard == shard)

    @cached_property
    def _content(self) -> dict[str, str]:
        return {s.shard: s.sha256 for s in self._shards}

    def _split_content(self, split: str) -> list[str]:
        return [self._content[name] for name, _ in self.shards(split)]

    @cached_property
    def annotated(self) -> bool:
        """Say whether any sample has a box."""
        path = dataset_file(self.dataset, "annotations.parquet")
        return self.lake.exists(path) and self.lake.parquet_rows(path) > 0

    def explainers(self) -> list[spec.Explainer]:
        """Return the audit's explainers, without those whose annotations the data set lacks."""
        return [
            explainer
            for explainer in self.audit.explainers
            if self.annotated or not REGISTRY[explainer.method].needs_annotations
        ]

    def _method(self, explainer: spec.Explainer) -> list[Any]:
        """Describe method and settings on which an explainer's maps depend, beside its head."""
        settings = explainer.model_dump_json()
        if settings not in self._methods:
            method = REGISTRY[explainer.method]
            own = method.identity(explainer.settings)
            self._methods[settings] = [explainer.method, method.version, own]
        return self._methods[settings]

    @cached_property
    def _methods(self) -> dict[str, list[Any]]:
        """The results of `_method`, by settings: a file that settings name is hashed only once."""
        return {}

    def explained(self, shard: str, explainer: spec.Explainer) -> int:
        """Return how many of a shard's images an explainer explains.

        The huge number ALL stands for all of them.
        """
        return self.share(shard, explainer.images or self.audit.maps.images)

    def share(self, shard: str, images: int | None) -> int:
        """Return how many of a shard's images are among the split's first `images`.

        The huge number ALL stands for all of them, also where `images` is None.
        """
        if images is None:
            return ALL
        before = 0
        for name, samples in self.shards(self.audit.maps.split):
            if name == shard:
                return ALL if before + samples <= images else max(0, images - before)
            before += samples
        return 0

    @cached_property
    def precision(self) -> str:
        """The number format of passes, with `auto` replaced by the format on this machine.

        `auto` stays where the device that the spec names is not on this machine.
        """
        compute = self.audit.compute
        if compute.precision != "auto":
            return compute.precision
        try:
            return str(precision_of(compute, device_of(compute))).removeprefix("torch.")
        except UserError:
            return compute.precision

    # ---- backbones ---------------------------------------------------------------------------

    def fitted_weights(self, backbone: spec.Backbone) -> str | None:
        """Return the path of the weights that `fit` makes; None where the backbone has no `fit`."""
        if backbone.fit is None:
            return None
        return f"{fitted_folder(self.dataset, backbone.name)}/weights.safetensors"

    def fit(self, backbone: spec.Backbone) -> dict[str, Any]:
        """Describe what a classifier with a section `fit` is made from."""
        return {
            "format": FIT,
            "classes": self.classes,
            "train": self._split_content("train"),
            "backbone": _architecture(backbone),
            "start": _given_weights(backbone) if backbone.has_weights else None,
            "fit": backbone.fit.model_dump() if backbone.fit else None,
        }

    def is_fitted(self, backbone: spec.Backbone) -> bool:
        """Say whether the lake holds a classifier's current weights from `fit`, unchanged."""
        folder = fitted_folder(self.dataset, backbone.name)
        weights = self.fitted_weights(backbone)
        return bool(
            weights
            and self.lake.exists(weights)
            and self.lake.is_current(f"{folder}/history.parquet", self.fit(backbone))
            and self.fitted_identity(backbone) == f"sha256:{self.lake.sha256(weights)}"
        )

    def fitted_identity(self, backbone: spec.Backbone) -> str:
        """Return the hash of the weights that `fit` has made, or "not yet"."""
        history = f"{fitted_folder(self.dataset, backbone.name)}/history.parquet"
        return self.lake.metadata(history).get("weights", "not yet")

    @cached_property
    def _fitted(self) -> dict[str, str]:
        """The hashes of weights that `fit` has made, by backbone, as far as they are known."""
        return {}

    def backbone(self, backbone: spec.Backbone) -> dict[str, Any]:
        """Describe a classifier, by its architecture and the identity of its weights."""
        if backbone.fit is None and backbone.library == "factory" and not self.imports:
            weights: str | None = self._last_weights(backbone)
        elif backbone.fit is None:
            weights = _given_weights(backbone)
        else:
            weights = self._fitted.get(backbone.name)
            if weights is None:
                weights = self.fitted_identity(backbone)
                if weights != "not yet":
                    self._fitted[backbone.name] = weights
        return {**_architecture(backbone), "weights": weights}

    def _last_weights(self, backbone: spec.Backbone) -> str | None:
        """Return the identity of the weights that the maps in the lake were made with."""
        for path in self.lake.glob(maps_file(self.dataset, backbone.name, "*", "*"))[:1]:
            made_from = json.loads(self.lake.metadata(path).get(MADE_FROM.decode(), "{}"))
            return made_from.get("backbone", {}).get("weights")
        return None

    def weights(self, backbone: spec.Backbone) -> dict[str, Any]:
        """Return the hashes of the weights that maps were made with, and of explainers' heads."""
        names = self.dataset, backbone.name
        maps = (self.lake.glob(maps_file(*names, e.name, "*"))[:1] for e in self.explainers())
        loaded = (self.lake.metadata(path).get(WEIGHTS) for paths in maps for path in paths)
        heads = {}
        for explainer in self.explainers():
            head = f"{head_folder(*names, explainer.name)}/head.safetensors"
            if REGISTRY[explainer.method].needs_head and self.lake.exists(head):
                with self.lake.open(head) as stream:
                    heads[explainer.name] = f"sha256:{_sha256(stream)}"
        own = next(filter(None, loaded), None) or self.backbone(backbone)["weights"]
        return {"backbone": own, "heads": heads}

    # ---- heads, maps, scores -----------------------------------------------------------------

    def head(self, backbone: spec.Backbone, explainer: spec.Explainer) -> dict[str, Any]:
        """Describe what a head is made from."""
        origin = {
            "format": HEAD,
            "explainer": self._method(explainer),
            "backbone": self.backbone(backbone),
            "taps": backbone.taps,
        }
        if given := given_head(backbone, explainer):
            return {**origin, "given": file_hash(given)}
        if also := explainer.auxiliary:
            origin["auxiliary"] = {**self.backbone(also), "taps": also.taps}
        training = training_of(self.audit.training, explainer)
        return {
            **origin,
            "training": training.model_dump(exclude={"checkpoint_steps"}),
            "precision": self.precision,
            "train": self._split_content("train"),
            "val": self._split_content("val"),
        }

    def head_hash(self, backbone: spec.Backbone, explainer: spec.Explainer) -> str:
        """Return the SHA-256 of an explainer's head as it was trained; "" where it has none."""
        folder = head_folder(self.dataset, backbone.name, explainer.name)
        needs_head = REGISTRY[explainer.method].needs_head
        return self.lake.metadata(f"{folder}/history.parquet").get(HEAD_HASH, "") * needs_head

    def maps(
        self, backbone: spec.Backbone, explainer: spec.Explainer, shard: str
    ) -> dict[str, Any]:
        """Describe what a shard's maps are made from."""
        needs_head = REGISTRY[explainer.method].needs_head
        made_from = {
            "format": MAPS,
            "explainer": self._method(explainer),
            "backbone": self.backbone(backbone),
            "taps": backbone.taps,
            "head": fingerprint(self.head(backbone, explainer)) if needs_head else None,
            "targets": self.audit.maps.targets,
            "precision": self.precision,
            "shard": self._content[shard],
            "images": self.explained(shard, explainer),
        }
        targets = self.audit.maps.targets
        named = isinstance(targets, list) and any(isinstance(target, str) for target in targets)
        if (self.data_classes.present or named) and not backbone.fit:
            made_from["labels"] = self._labels(backbone)
        if self.precision != "float32":
            made_from["probability"] = "float32"  # in earlier maps it had the lower precision
        if self.audit.maps.dtype != "float16":  # earlier maps, without this key, are float16
            made_from["dtype"] = self.audit.maps.dtype
        return made_from

    def _labels(self, backbone: spec.Backbone) -> list[Any]:
        """Return all that the matching of labels with the classifier's classes depends on."""
        data, named = self.data_classes, backbone.class_names
        if isinstance(named, str) and Path(named).expanduser().is_file():
            named = file_hash(str(Path(named).expanduser()))
        labels = {**self.audit.dataset.labels, **backbone.labels}
        return [data.names, data.present, data.ordered, named, labels]

    def scores(
        self, backbone: spec.Backbone, explainer: spec.Explainer, metric: spec.Metric, shard: str
    ) -> dict[str, Any]:
        """Describe what the scores of a shard's maps are made from."""
        return {
            "format": SCORES,
            "maps": fingerprint(self.maps(backbone, explainer, shard)),
            "metric": [metric.family, FAMILIES[metric.family].version, metric.settings],
            "images": self.share(shard, metric.images),
        }

    def pasted(self, backbone: spec.Backbone) -> dict[str, Any] | None:
        """Describe what a backbone's pastes and changed pictures are made from.

        None where the audit does not ask for the family `marked`.
        """
        marked = self.audit.evaluation.marked
        if marked is None:
            return None
        named = rivals(self.audit)
        scores = [
            fingerprint(self.scores(backbone, e, marked, shard))
            for e in self.explainers()
            if e.name in named
            for shard, _ in self.shards(self.audit.maps.split)
        ]
        return {"format": PASTED, "scores": scores}

    def pasted_is_current(self, backbone: spec.Backbone) -> bool:
        """Say whether the lake holds a backbone's current pastes, or the audit asks for none."""
        made_from = self.pasted(backbone)
        path = pasted_file(self.dataset, backbone.name)
        return made_from is None or self.lake.is_current(path, made_from)

    def head_is_current(self, backbone: spec.Backbone, explainer: spec.Explainer) -> bool:
        """Say whether the lake holds the current head, unchanged, or why there is none."""
        folder = head_folder(self.dataset, backbone.name, explainer.name)
        made_from = self.head(backbone, explainer)
        current = self.lake.is_current(f"{folder}/history.parquet", made_from)
        return current and is_whole_head(self.lake, folder)

    def missing_maps(self, backbone: spec.Backbone, shard: str) -> list[spec.Explainer]:
        """Return the explainers whose maps of a shard are missing or outdated."""
        wanted = self.explainers()
        there = self.lake.are_current(
            [
                (
                    maps_file(self.dataset, backbone.name, e.name, shard),
                    self.maps(backbone, e, shard),
                )
                for e in wanted
            ]
        )
        return [e for e, current in zip(wanted, there, strict=True) if not current]

    def missing_scores(
        self, backbone: spec.Backbone, shard: str
    ) -> list[tuple[spec.Explainer, spec.Metric]]:
        """Return the explainers and metrics whose scores of a shard are missing or outdated."""
        wanted = [(e, m) for e in self.explainers() for m in self.audit.evaluation.metrics]
        there = self.lake.are_current(
            [
                (
                    scores_file(m.family, self.dataset, backbone.name, e.name, shard),
                    self.scores(backbone, e, m, shard),
                )
                for e, m in wanted
            ]
        )
        return [pair for pair, current in zip(wanted, there, strict=True) if not current]

    def work(self) -> Iterator[Work]:
        """Yield all work of the audit on its shards, in order."""
        shards = [name for name, _ in self.shards(self.audit.maps.split)]
        for backbone in self.audit.backbones:
            name, of = backbone.name, (self.dataset, backbone.name)
            if weights := self.fitted_weights(backbone):
                yield Work("fit", name, unmade=[weights] * (not self.is_fitted(backbone)))
            for e in self.explainers():
                if REGISTRY[e.method].needs_head:
                    head = f"{head_folder(*of, e.name)}/head.safetensors"
                    current = self.head_is_current(backbone, e)
                    yield Work("train", name, e.name, unmade=[head] * (not current))
            for shard in shards:
                missing = self.missing_maps(backbone, shard)
                for e in self.explainers():
                    maps = maps_file(*of, e.name, shard)
                    yield Work("explain", name, e.name, shard, [maps] * (e in missing))
                unscored = self.missing_scores(backbone, shard)
                for e in self.explainers():
                    families = [metric.family for other, metric in unscored if other == e]
                    scores = [scores_file(family, *of, e.name, shard) for family in families]
                    yield Work("evaluate", name, e.name, shard, scores)
            if self.audit.evaluation.marked:
                pasted = [pasted_file(*of)]
                yield Work("paste", name, unmade=pasted * (not self.pasted_is_current(backbone)))

    def unmade(self) -> Iterator[str]:
        """Yield the paths of files that the audit asks for and that are missing or outdated."""
        for work in self.work():
            yield from work.unmade

    def lost(self, backbone: spec.Backbone) -> Counter[str]:
        """Return how many maps each explainer lacks because they are not finite, by its name."""
        lost: Counter[str] = Counter()
        for e in self.explainers():
            files = self.lake.glob(maps_file(self.dataset, backbone.name, e.name, "*"))
            for first in range(0, len(files), TOGETHER):
                about = self.lake.metadata_of(files[first : first + TOGETHER])
                lost[e.name] += sum(int(of_file.get(LOST, 0)) for of_file in about)
        return lost


def given_head(backbone: spec.Backbone, explainer: spec.Explainer) -> str | None:
    """Return the path of the trained head that the spec names for an explainer; None without."""
    return backbone.head if getattr(REGISTRY[explainer.method], "takes_given", False) else None


def _architecture(backbone: spec.Backbone) -> dict[str, Any]:
    about = backbone.model_dump(include={"model", "args", "num_classes", "preprocessing"})
    # What says how outputs are read counts where it is given.
    given = {"outputs": backbone.outputs, "prompts": backbone.texts or None}
    return about | {key: value for key, value in given.items() if value is not None}


def _given_weights(backbone: spec.Backbone) -> str:
    """Identify weights that the audit does not train, without loading them.

    The result is the hash of a checkpoint, or the name of pretrained weights, whose publishers do
    not change the weights behind a name.
    """
    if backbone.checkpoint:
        return f"sha256:{file_hash(backbone.checkpoint)}"
    return f"pretrained:{backbone.model}" if backbone.pretrained else own_weights(backbone)


def _sha256(stream: IO[bytes]) -> str:
    return hashlib.file_digest(stream, "sha256").hexdigest()  # type: ignore[arg-type]
