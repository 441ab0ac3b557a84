"""The whole spec of an audit."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator

from ttame_core.spec.backbone import Backbone
from ttame_core.spec.base import Name, Section, distinct
from ttame_core.spec.compute import Compute
from ttame_core.spec.dataset import Dataset
from ttame_core.spec.gates import Gate
from ttame_core.spec.methods import Evaluation, Explainer, Maps
from ttame_core.spec.training import Training


class AuditSpec(Section):
    """The whole spec of an audit.

    The settings of explainers and metrics stand as they were given. They are checked, and their
    defaults filled in, when a spec is opened (`audits.specification.complete`).
    """

    name: Name = Field(description="name of the audit, under which its records are kept")
    dataset: Dataset = Field(description="the images, and where their annotations lie")
    backbones: list[Backbone] = Field(min_length=1, description="the classifiers")
    explainers: list[Explainer] = Field(
        default_factory=lambda: [
            Explainer(method=method) for method in ("ttame", "gradcam", "random", "oracle")
        ],
        min_length=1,
        description="what makes maps; default: ttame, gradcam, random, oracle",
    )
    training: Training = Field(Training(), description="how heads are trained")
    maps: Maps = Field(Maps(), description="what is explained")
    evaluation: Evaluation = Field(default_factory=Evaluation, description="how maps are scored")
    gates: list[Gate] = Field(
        default_factory=list, description="conditions that fail the audit (docs/schedules.md)"
    )
    compute: Compute = Field(
        default_factory=Compute, description="devices, number formats and engines"
    )

    @field_validator("backbones", "explainers")
    @classmethod
    def _distinct(cls, chosen: list[Any], info: ValidationInfo) -> list[Any]:
        return distinct(str(info.field_name), chosen, [c.name for c in chosen])
