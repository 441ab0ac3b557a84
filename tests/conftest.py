"""Fixtures that many tests use. Large packages are imported by those that need them.

The process that hands out the tests reads this module as well, while all others wait.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from filelock import FileLock
from PIL import Image

os.environ["DO_NOT_TRACK"] = "1"
os.environ["OMP_NUM_THREADS"] = "1"  # test processes, and those they start, run side by side

import flows  # noqa: F401 (which sets variables that all processes of the tests have)

if TYPE_CHECKING:
    from stores import Store

    from ttame_core.backbones import Backbone
    from ttame_core.lake import Lake

gc.disable()  # until the tests are imported (ttame_core/imports.py)


@pytest.hookimpl(wrapper=True)
def pytest_xdist_auto_num_workers() -> Generator[None, int, int]:
    """One more than there are cores: many tests wait for a server, or for a process to end."""
    return (yield) + 1


COMPILES = """
import torch
from ttame_core.metrics import contour_ious
from ttame_core.perturbation.imputation import impute
contour_ious(torch.rand(1, 8, 8), [torch.tensor([[1, 1, 4, 4]])])
impute(torch.rand(1, 3, 8, 8), torch.rand(1, 8, 8) < 0.5)
"""


def pytest_sessionstart(session: pytest.Session) -> None:
    """Compile what Numba compiles once, while the processes of the tests start.

    Each of them would compile it again, as long as none has ended.
    """
    if session.config.getoption("tx", None):  # of the process that starts the others
        gc.enable()  # it collects no tests
        subprocess.Popen([sys.executable, "-c", COMPILES])


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let all processes but one begin with the tests that ask a Prefect server, slow ones first.

    Each has a server of its own, and the last does without. xdist gives each process a part of the
    list, and those that have ended what others would do last.
    """
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    asking = [item for item in items if "server" in getattr(item, "fixturenames", ())]
    others = [item for item in items if "server" not in getattr(item, "fixturenames", ())]
    asking.sort(key=lambda item: not item.get_closest_marker("slow"))
    few = max(1, processes - 1)
    parts = [asking[number::few] for number in range(few)] + [[]] * (processes - few)
    size = -(-len(items) // processes)
    items.clear()
    for part in parts:
        room = max(0, size - len(part))
        items += part + others[:room]
        del others[:room]


def pytest_collection_finish() -> None:
    gc.enable()


def pytest_unconfigure() -> None:
    gc.freeze()  # nothing more is looked through for garbage: the process ends


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call() -> Generator[None, object, object]:
    """What a test changes of its process is put back: the next one may be any other."""
    import torch

    environment, path, folder = dict(os.environ), [*sys.path], os.getcwd()
    threads, dtype = torch.get_num_threads(), torch.get_default_dtype()
    try:
        return (yield)
    finally:
        if dict(os.environ) != environment:
            os.environ.clear()
            os.environ.update(environment)
        sys.path[:] = path
        os.chdir(folder)
        torch.set_num_threads(threads)
        torch.set_default_dtype(dtype)


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> tuple[Lake, str]:
    """A lake with a small drawn data set: 40, 8 and 12 pictures of 64 pixels."""
    from tiny import shard_all

    from ttame_core import spec
    from ttame_core.lake import Lake

    lake = Lake(tmp_path_factory.mktemp("drawn"))
    source = {"kind": "shapes", "train": 40, "val": 8, "test": 12, "size": 64}
    shard_all(spec.Dataset(name="drawn", source=source, samples_per_shard=16), lake)
    return lake, "drawn"


@pytest.fixture(scope="session")
def of_all_processes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of the tests have, for what is made once."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def audited(of_all_processes: Path) -> Path:
    """A folder with `audit.yaml` and the workspace of that audit, made without a server.

    It is made once for all processes of the tests: whoever changes a file does so in a copy.
    """
    from audited import audit_alone

    folder = of_all_processes / "audited"
    with FileLock(f"{folder}.lock"):
        if not (folder / "made").exists():
            folder.mkdir(exist_ok=True)
            audit_alone(folder, ["center", "random", "gradcam"])
            (folder / "made").touch()
    return folder


@pytest.fixture(scope="session")
def tiny() -> Backbone:
    from tiny import tiny_backbone

    return tiny_backbone()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An image folder of two classes, with awkward names."""
    for name in (
        "cats/a b.jpg",
        "cats/ñandú.JPG",
        "cats/same.png",
        "dogs/same.jpg",
        "dogs/x.y.jpeg",
    ):
        path = tmp_path / "images" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.new("RGB", (40, 30), (len(name) * 5, 100, 50))
        image.save(path, "PNG" if name.endswith("png") else "JPEG")
    return tmp_path / "images"


@pytest.fixture(scope="session")
def object_store() -> Iterator[Store]:
    from stores import Store

    store = Store()
    yield store
    store.stop()


@pytest.fixture
def s3(object_store: Store, monkeypatch: pytest.MonkeyPatch) -> Store:
    """An object store with an empty bucket, which the environment leads to."""
    from s3fs import S3FileSystem

    object_store.new_bucket()
    S3FileSystem.clear_instance_cache()  # clients know the environment they were made in
    for name, value in object_store.env.items():
        monkeypatch.setenv(name, value)
    return object_store
