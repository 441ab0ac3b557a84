"""Training of one head, by this process or by several together, on GPUs or on the CPU."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import multiprocessing
from torch.distributed.elastic.utils.distributed import get_free_port
from torch.multiprocessing.spawn import ProcessExitedException

from tasks.models import backbone_of, load, training_shards
from tasks.progress import Report
from ttame_core import spec
from ttame_core.backbones import Backbone
from ttame_core.backbones.devices import device_of, place
from ttame_core.errors import UserError
from ttame_core.explainers import REGISTRY, NotApplicable, training_of
from ttame_core.explainers.trained import Trained
from ttame_core.lake import Lake
from ttame_core.stages.provenance import Provenance
from ttame_core.stopping import Stopped
from ttame_core.training.head import train_head
from ttame_core.training.orders import TrainingOutput

if TYPE_CHECKING:
    from accelerate import Accelerator

# A head: its backbone, its explainer, and the folder that it is written to.
Order = tuple[spec.Backbone, spec.Explainer, str]

STOPS = 10  # seconds that a process may take to remove what it has half written


def train_one(
    provenance: Provenance,
    backbone: spec.Backbone,
    explainer: spec.Explainer,
    folder: str,
    report: Report,
) -> None:
    """Train the head of an explainer on a backbone, with as many processes as the spec says.

    Raises:
        NotApplicable: the explainer cannot explain the backbone.
    """
    devices = provenance.audit.compute.devices
    order = backbone, explainer, folder
    if devices == 1:
        _train(provenance, order, backbone_of(provenance, backbone), report)
        return
    gpus = torch.cuda.device_count()
    if device_of(provenance.audit.compute).type == "cuda" and devices > gpus:
        raise UserError(
            f"compute.devices is {devices}, but PyTorch finds {gpus} CUDA devices here: lower it"
        )
    messages = multiprocessing.get_context("spawn").SimpleQueue()
    audit = provenance.audit, provenance.lake.url
    members = multiprocessing.spawn(
        _member, (devices, get_free_port(), messages, audit, order), nprocs=devices, join=False
    )
    try:
        while not members.join(timeout=0.2):
            _pass_on(messages, report)
        _pass_on(messages, report)
    except ProcessExitedException as error:
        _pass_on(messages, report)  # raises the reason, where it is the user's mistake
        if error.signal_name == "SIGKILL":
            raise RuntimeError(
                f"one of the {devices} processes that train {explainer.name} on {backbone.name} "
                "was killed, as is done where memory runs out: run again to go on from the "
                "checkpoint, with fewer compute.workers or compute.devices if it happens again"
            ) from error
        raise
    except Stopped:
        for process in members.processes:
            process.join(STOPS)  # the signal reached this process too
        raise
    finally:
        for process in members.processes:
            process.kill()


def _pass_on(messages: Any, report: Report) -> None:
    while not messages.empty():
        message = messages.get()
        if isinstance(message, Exception):
            raise message
        report(*message)


def _member(
    rank: int,
    devices: int,
    port: int,
    messages: Any,
    audit_and_url: tuple[spec.AuditSpec, str],
    order: Order,
) -> None:
    """Train in one of several processes; it dies with the process that started it."""
    from accelerate import Accelerator  # slow to import

    audit, workspace = audit_and_url
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(devices)}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    on_cpu = device_of(audit.compute).type == "cpu"
    if on_cpu:
        threads = max(1, (os.cpu_count() or 1) // devices)
        os.environ |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)}
        torch.set_num_threads(threads)
    try:
        accelerator = Accelerator(cpu=on_cpu)
        provenance = Provenance(audit, Lake(workspace))
        compute = audit.compute.model_copy(update={"device": str(accelerator.device)})
        backbone = place(load(provenance, order[0]), compute)
        report = (lambda *progress: messages.put(progress)) if rank == 0 else None
        _train(provenance, order, backbone, report, accelerator)
        accelerator.end_training()
    except (UserError, NotApplicable) as error:
        messages.put(error)
        raise SystemExit(2) from error


def _train(
    provenance: Provenance,
    order: Order,
    backbone: Backbone,
    report: Report | None,
    accelerator: Accelerator | None = None,
) -> None:
    settings, explainer, folder = order
    train_head(
        training_shards(provenance),
        TrainingOutput(provenance.lake, folder, provenance.head(settings, explainer)),
        cast(Trained, REGISTRY[explainer.method](backbone, explainer.settings)),
        training_of(provenance.audit.training, explainer),
        report,
        accelerator,
    )
