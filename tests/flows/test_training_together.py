"""Two processes train one head: the same steps as one process that sees both halves."""

from __future__ import annotations

import copy
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from multiprocessing import active_children
from pathlib import Path

import pytest
import torch
from forked import PATIENCE
from safetensors.torch import load_file
from tiny import shard_all
from torch import Tensor
from torch.optim.lr_scheduler import OneCycleLR

from tasks.models import load
from tasks.training import train_one
from ttame_core import spec
from ttame_core.audits.specification import open_spec
from ttame_core.data.loader import load_batches
from ttame_core.errors import UserError
from ttame_core.explainers.ttame import TTame
from ttame_core.heads.attention import AttentionHead
from ttame_core.lake import Lake
from ttame_core.stages.provenance import Provenance
from ttame_core.training.first_pass import first_pass
from ttame_core.training.head import optimiser, smooth_noise, training_losses
from ttame_core.training.start import begin

TTAME = spec.Explainer(method="ttame")
ALONE = """
import sys
from tasks.training import train_one
from ttame_core.lake import Lake
from ttame_core.stages.provenance import Provenance
from ttame_core.audits.specification import open_spec

if __name__ == "__main__":
    audit = open_spec(sys.argv[1])
    provenance = Provenance(audit, Lake(sys.argv[2]))
    train_one(provenance, audit.backbones[0], audit.explainers[0], "head", lambda *progress: None)
"""


def _two(spec_file: Path, **training: object) -> Provenance:
    audit = open_spec(spec_file)
    settings = audit.training.decided(reads_occluded=True).model_copy(update=training)
    compute = audit.compute.model_copy(update={"device": "cpu", "devices": 2})
    audit = audit.model_copy(update={"training": settings, "compute": compute})
    lake = Lake(spec_file.parent / "workspace")
    shard_all(audit.dataset, lake)
    return Provenance(audit, lake)


def _head_file(provenance: Provenance) -> Path:
    (path,) = Path(provenance.lake.url).rglob("head.safetensors")
    return path


@pytest.mark.long
def test_a_shared_head_starts_from_the_same_gradients_in_all_processes(spec_file: Path) -> None:
    whole = spec.Training(recipe="whole", epochs=1, min_steps=0, batch_size=16).model_dump()
    provenance = _two(spec_file, **whole)
    train_one(provenance, provenance.audit.backbones[0], TTAME, "head", lambda *progress: None)
    together = load_file(_head_file(provenance))
    net = load(provenance, provenance.audit.backbones[0])

    def images() -> Iterator[Tensor]:
        names = [name for name, _ in provenance.shards("train")]
        order = provenance.audit.training.seed, 0
        view = net.preprocessing
        for batch in load_batches(provenance.lake, "drawn", names, view, 16, 2, shuffle=order):
            yield batch.float_images(net.device)

    _, head = begin(TTame(net), provenance.audit.training, images)
    assert head is not None
    moved = (together["matrix"] - head.matrix).abs().mean() / head.matrix.abs().mean()
    assert 0 < moved < 0.5  # two steps from the start that one process makes


def test_the_steps_are_those_of_the_mean_of_both_halves(spec_file: Path) -> None:
    provenance = _two(spec_file, epochs=1, batch_size=16, optimizer="sgd", learning_rate=0.05)
    told: list[tuple[int, int, str]] = []
    backbone = provenance.audit.backbones[0]
    train_one(provenance, backbone, TTAME, "head", lambda *progress: told.append(progress))
    assert [(done, total) for done, total, _ in told] == [(1, 2), (2, 2)]

    net = load(provenance, backbone)
    settings = provenance.audit.training
    explainer = TTame(net)
    torch.manual_seed(settings.seed)
    head = AttentionHead([t.channels for t in net.taps], net.num_classes, net.map_size).train()
    optimizer = optimiser(head, settings)
    schedule = OneCycleLR(optimizer, settings.learning_rate, total_steps=2)
    shards = [name for name, _ in provenance.shards("train")]
    for batch in load_batches(
        provenance.lake, "drawn", shards, net.preprocessing, 16, 2, shuffle=(settings.seed, 0)
    ):
        images = batch.float_images(net.device)
        other = copy.deepcopy(head)  # whose running statistics are not those that are kept
        optimizer.zero_grad()
        noise = smooth_noise(settings, 16, schedule.last_epoch, 2, head.map_size)
        for learner, first in ((head, 0), (other, 1)):
            half, added = images[first::2], None if noise is None else noise[first::2]
            whole = first_pass(explainer, half)
            (training_losses(explainer, learner, whole, settings, added).loss / 2).backward()
        for mine, its in zip(head.parameters(), other.parameters(), strict=True):
            mine.grad += its.grad
        optimizer.step()
        schedule.step()
    trained = load_file(_head_file(provenance))
    for name, expected in head.state_dict().items():
        torch.testing.assert_close(trained[name], expected, rtol=1e-4, atol=1e-5)
    history = Path(_head_file(provenance).parent / "history.parquet")
    assert history.exists()


@pytest.mark.long
def test_killed_both_die_and_run_again_they_end_the_same(spec_file: Path) -> None:
    provenance = _two(spec_file, epochs=12)
    backbone = provenance.audit.backbones[0]
    train_one(provenance, backbone, TTAME, "head", lambda *progress: None)
    whole = _head_file(provenance).read_bytes()
    for path in _head_file(provenance).parent.iterdir():
        path.unlink()

    settings = spec_file.parent / "two.yaml"
    settings.write_text(provenance.audit.model_dump_json())

    # One of the members, as where memory runs out.
    def kill_one(done: int, total: int, text: str) -> None:
        if done == 20:
            os.kill(active_children()[-1].pid, signal.SIGKILL)

    with pytest.raises(
        RuntimeError, match=r"was killed, .* run again to go on from the checkpoint"
    ):
        train_one(provenance, backbone, TTAME, "head", kill_one)
    (checkpoint,) = Path(provenance.lake.url).rglob("checkpoint.pt")
    assert torch.load(checkpoint, weights_only=True)["step"] >= 18
    killed_at = checkpoint.stat().st_mtime_ns

    script = spec_file.parent / "alone.py"
    script.write_text(ALONE)
    command = [sys.executable, script, settings, provenance.lake.url]
    process = subprocess.Popen(command, start_new_session=True)
    deadline = time.monotonic() + PATIENCE
    while checkpoint.stat().st_mtime_ns == killed_at:  # it goes on, and is killed as a whole
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    while _alive(process.pid):  # the members, in its session
        assert time.monotonic() < deadline
        time.sleep(0.1)
    assert not list(Path(provenance.lake.url).rglob("head.safetensors"))
    subprocess.run(command, check=True, timeout=PATIENCE)
    assert _head_file(provenance).read_bytes() == whole


def _alive(session: int) -> bool:
    try:
        os.killpg(session, 0)
    except ProcessLookupError:
        return False
    return True


@pytest.mark.long
def test_a_mistake_found_by_a_member_is_told_in_one_sentence(spec_file: Path) -> None:
    provenance = _two(spec_file, batch_size=64)
    with pytest.raises(UserError, match="has 32 training samples, less than one batch of 64"):
        train_one(provenance, provenance.audit.backbones[0], TTAME, "head", lambda *progress: None)
