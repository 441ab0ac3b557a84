"""Prefect's task runners, as `compute.engine` asks for them: processes, Dask, Ray."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from importlib import import_module
from multiprocessing import get_context, parent_process
from threading import Thread
from types import ModuleType
from typing import Any

import torch
from prefect.task_runners import ProcessPoolTaskRunner, TaskRunner, ThreadPoolTaskRunner

from flows.stopping import end_on_signals
from ttame_core.errors import UserError
from ttame_core.spec import Compute


def _nothing(gpus: int) -> AbstractContextManager[Any]:
    return nullcontext()


@dataclass(frozen=True)
class Runner:
    """A kind of task runner: how it is started, how many units fit, how GPUs are asked for.

    Attributes:
        start: function that starts the task runner.
        room: function that returns how many units can run now.
        asking_for: function that takes a number of GPUs and returns a context; each unit that is
            submitted in it is given so many GPUs.
        in_flight: number of units that are submitted for each that can run. With 2, one waits
            beside the running one, so that no worker waits for this process.
    """

    start: Callable[[], TaskRunner[Any]]
    room: Callable[[], int]
    asking_for: Callable[[int], AbstractContextManager[Any]] = _nothing
    in_flight: int = 1


def runner_of(compute: Compute) -> Runner:
    """Return the runner of the engine that a spec names.

    Raises:
        UserError: the engine is not installed, or its cluster does not answer.
    """
    return {"processes": _processes, "dask": _dask, "ray": _ray}[compute.engine](compute)


def threads(at_once: int) -> Runner:
    """Return a runner that runs `at_once` units at a time in threads of this process."""
    return Runner(lambda: ThreadPoolTaskRunner(at_once).__enter__(), lambda: at_once)


# ---- this machine ----------------------------------------------------------------------------


def _processes(compute: Compute) -> Runner:
    gpus = gpus_of(compute)
    at_once = _at_once(compute, gpus)

    def start() -> TaskRunner[Any]:
        own_gpu = get_context("spawn").SimpleQueue() if gpus else None
        if own_gpu is not None:
            for number in range(at_once):
                own_gpu.put(gpus[number % len(gpus)])
        arguments: dict[str, Any] = {"initializer": _begin, "initargs": (own_gpu, at_once)}
        return ProcessPoolTaskRunner(at_once, **arguments).__enter__()

    return Runner(start, lambda: at_once, in_flight=2)


def _begin(own_gpu: Any, at_once: int) -> None:
    """Prepare a worker process: how it ends, which GPU it uses, its share of the cores."""
    end_on_signals()
    Thread(target=_end_with_parent, daemon=True).start()
    if own_gpu:
        os.environ["CUDA_VISIBLE_DEVICES"] = own_gpu.get()
        torch.cuda.init()  # now: Prefect gives each task the parent's environment again
    torch.set_num_threads(_share_of_threads(at_once))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent:
        parent.join()
        os._exit(1)  # the parent was killed: otherwise it would have told this process to end


def gpus_of(compute: Compute) -> list[str]:
    """List the GPUs of this machine that an audit may use, as CUDA_VISIBLE_DEVICES names them."""
    count = 0 if compute.device == "cpu" else torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return named.split(",")[:count] if named else [str(number) for number in range(count)]


def _at_once(compute: Compute, gpus: list[str]) -> int:
    return compute.at_once or len(gpus) or max(1, (os.cpu_count() or 1) // 4)


def _share_of_threads(at_once: int) -> int:
    return max(1, torch.get_num_threads() // at_once)


# ---- Dask ------------------------------------------------------------------------------------


def _dask(compute: Compute) -> Runner:
    module = _extra("dask")
    import dask

    arguments: dict[str, Any] = {"address": compute.address}
    if not compute.address:
        arguments = {"cluster_class": "distributed.SpecCluster", "cluster_kwargs": _local(compute)}
    runner = module.DaskTaskRunner(**arguments)

    def start() -> TaskRunner[Any]:
        with _answering(compute):
            assert runner.client  # connects
        return runner.__enter__()

    def workers() -> list[dict[str, Any]]:
        return list(runner.client.scheduler_info(n_workers=-1)["workers"].values())

    def asking_for(gpus: int) -> AbstractContextManager[Any]:
        counted = [worker["resources"].get("GPU", 0) for worker in workers()]
        if not gpus or compute.device == "cpu" or not sum(counted):
            return nullcontext()
        _check(compute, gpus, max(counted))
        return dask.annotate(resources={"GPU": gpus})

    return Runner(start, lambda: compute.at_once or len(workers()), asking_for)


# The first lines of a worker: its cluster stops it, not a Ctrl-C, which reaches all processes.
DEAF = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN)"


def _local(compute: Compute) -> dict[str, Any]:
    """Return the arguments of a Dask cluster on this machine: a process, with its GPU, per unit."""
    import dask
    from distributed import Nanny, Scheduler

    dask.config.set({"distributed.worker.daemon": False})  # a unit may start processes itself
    logging.getLogger("distributed").setLevel(logging.WARNING)
    gpus = gpus_of(compute)
    at_once = _at_once(compute, gpus)
    environment = {"OMP_NUM_THREADS": str(_share_of_threads(at_once))}
    local: dict[str, Any] = {"host": "127.0.0.1", "dashboard": False}
    workers = {}
    for number in range(at_once):
        own: dict[str, Any] = {"nthreads": 1, "memory_limit": 0, "env": environment}
        own |= {"silence_logs": logging.WARNING, "preload": [DEAF]}
        if gpus:
            own_gpu = {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]}
            own |= {"env": environment | own_gpu, "resources": {"GPU": 1}}
        workers[number] = {"cls": Nanny, "options": local | own}
    return {"workers": workers, "scheduler": {"cls": Scheduler, "options": local}}


# ---- Ray -------------------------------------------------------------------------------------


def _ray(compute: Compute) -> Runner:
    module = _extra("ray")
    import ray

    arguments: dict[str, Any] = {"address": compute.address}
    if not compute.address:
        gpus = gpus_of(compute)
        at_once = _at_once(compute, gpus)
        environment = {"OMP_NUM_THREADS": str(_share_of_threads(at_once))}
        arguments = {
            "init_kwargs": {
                "address": "local",
                "num_cpus": at_once,
                "num_gpus": len(gpus),
                "include_dashboard": False,
                "runtime_env": {"env_vars": environment},
            }
        }

    def start() -> TaskRunner[Any]:
        with _answering(compute):
            return module.RayTaskRunner(**arguments).__enter__()

    def there(resource: str) -> list[float]:
        return [node["Resources"].get(resource, 0) for node in ray.nodes() if node["Alive"]]

    def counted() -> list[float]:
        return [0] if compute.device == "cpu" else there("GPU")

    def asking_for(gpus: int) -> AbstractContextManager[Any]:
        if not gpus or not sum(counted()):
            return nullcontext()
        _check(compute, gpus, max(counted()))
        return module.context.remote_options(num_gpus=gpus)

    def room() -> int:
        return compute.at_once or int(sum(counted()) or sum(there("CPU")))

    return Runner(start, room, asking_for)


def _extra(name: str) -> ModuleType:
    try:
        return import_module(f"prefect_{name}")
    except ImportError as error:
        raise UserError(
            f"compute.engine is {name}, which is not installed: pip install 'ttame[{name}]'"
        ) from error


@contextmanager
def _answering(compute: Compute) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as error:
        if not compute.address:
            raise
        raise UserError(
            f"no {compute.engine} cluster answers at compute.address, {compute.address}: {error}"
        ) from error


def _check(compute: Compute, gpus: int, most: float) -> None:
    if gpus > most:
        raise UserError(
            f"compute.devices is {gpus}, but no worker of the {compute.engine} cluster has more "
            f"than {most:g} GPUs: lower compute.devices"
        )
