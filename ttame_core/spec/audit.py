"""The whole spec of an audit."""

from __future__ import annotations

from typing import Any

from pydantic import Field, ValidationInfo, field_validator, model_validator

from ttame_core.spec.backbone import Backbone
from ttame_core.spec.base import Name, Section, distinct
from ttame_core.spec.compute import Compute
from ttame_core.spec.dataset import Dataset
from ttame_core.spec.gates import Gate
from ttame_core.spec.methods import Evaluation, Explainer, Maps
from ttame_core.spec.training import Training


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
        from ttame_core.audits.gates import check_names

        if gates and {"backbones", "explainers", "evaluation"} <= info.data.keys():
            for gate in gates:
                check_names(
                    gate, **{k: info.data[k] for k in ("backbones", "explainers", "evaluation")}
                )
        return gates

    @field_validator("backbones", "explainers")
    @classmethod
    def _distinct(cls, chosen: list[Any], info: ValidationInfo) -> list[Any]:
        return distinct(str(info.field_name), chosen, [c.name for c in chosen])

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
