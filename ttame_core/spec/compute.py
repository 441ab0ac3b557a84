"""The section of a spec about devices, number formats and engines."""

from __future__ import annotations

import os
from typing import Literal

from pydantic import Field, model_validator

from ttame_core.spec.base import Section


class Compute(Section):
    """The section of a spec about devices, number formats and engines."""

    device: str = Field(
        "auto",
        pattern=r"^(auto|cpu|cuda(:\d+)?)$",
        description="auto, cpu, cuda or cuda:N; auto: a GPU where there is one",
    )
    devices: int = Field(
        1, ge=1, description="GPUs, or processes on the CPU, that train one head together"
    )
    batch_size: int = Field(32, ge=1, description="images per forward pass of maps and metrics")
    precision: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "float32",
        description="number format of training and maps, as automatic mixed precision; metrics are "
        "always in float32. auto: bfloat16 where the device has fast bfloat16 (docs/cost.md)",
    )
    channels_last: bool = Field(True, description="memory layout of convolutional networks")
    compile: bool = Field(False, description="torch.compile the backbone")
    workers: int = Field(
        default_factory=lambda: os.cpu_count() or 1,
        ge=1,
        description="number of threads that decode images, and of shards that are written at once",
    )
    engine: Literal["threads", "processes", "dask", "ray"] = Field(
        "threads",
        description="threads: networks run one after another and take the whole machine; "
        "processes: several at once on this machine; dask, ray: on a cluster (docs/scale.md)",
    )
    address: str | None = Field(
        None,
        description="address of a dask or ray cluster, which the environment variable TTAME_TRUST "
        "must name (docs/security.md); default: a cluster on this machine is started for this "
        "audit",
    )
    at_once: int | None = Field(
        None,
        ge=1,
        description="number of units that run at once, with any engine but threads; default: one "
        "per GPU, or per four cores; on a cluster with an address, as many as it has room for",
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
            raise ValueError(
                f"only dask and ray have an address, and engine is {self.engine}: leave one out"
            )
        if self.engine != "threads" and ":" in self.device:
            raise ValueError(
                f"engine {self.engine} shares out the GPUs itself: say cuda or auto as device"
            )
        return self
