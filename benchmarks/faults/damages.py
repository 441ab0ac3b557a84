"""Files that are no longer as they were written: single bits, and whole files of elsewhere."""

from __future__ import annotations

import json
import random
import re
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from benchmarks.faults.kills import run_audit
from ttame_core import spec
from ttame_core.audits.verify import verify
from ttame_core.backbones.preprocessing import Preprocessing
from ttame_core.data.loader import load_batches
from ttame_core.errors import UserError
from ttame_core.heads.files import is_whole_head
from ttame_core.lake import Lake, fingerprint
from ttame_core.lake.records import check_record
from ttame_core.lake.store import FINGERPRINT, MADE_FROM
from ttame_core.training.checkpoint import load_checkpoint, save_checkpoint
from ttame_core.training.orders import TrainingOutput

VERIFIED = 2  # flips of each kind of file that are looked at by `ttame verify` too
VIEW = Preprocessing((64, 64), 1.0, "center", "bilinear", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))


def flip_bits(audit: spec.AuditSpec, folder: Path, flips: int, seed: int) -> tuple[str, list[str]]:
    """Flip single bits in every kind of file of a workspace, and read what was flipped.

    Args:
        audit: the audit whose workspace is damaged.
        folder: an empty folder.
        flips: number of flips for each kind of file.
        seed: what the flips follow from.

    Returns:
        What was done, and the flips after which a reader gave other content without a word.
    """
    rng, workspace, problems = random.Random(seed), folder / "workspace", []
    run_audit(audit, workspace)
    _interrupt(Lake(workspace))
    seen: Counter[str] = Counter()
    verified = 0
    files = _files_by_kind(workspace)
    contents = {path: _content(workspace, path) for paths in files.values() for path in paths}
    for kind, paths in files.items():
        for number in range(flips):
            path = rng.choice(paths)
            whole = (workspace / path).read_bytes()
            bit = rng.randrange(8 * len(whole))
            broken = bytearray(whole)
            broken[bit // 8] ^= 1 << bit % 8
            (workspace / path).write_bytes(broken)
            try:
                same = _content(workspace, path) == contents[path]
                seen["without effect"] += same
                if not same:
                    problems.append(f"bit {bit} of {path} gives other content")
            except UserError:
                seen["noticed"] += 1
            if number < VERIFIED:
                verified += 1
                if not verify(Lake(workspace)):
                    problems.append(f"bit {bit} of {path} is not seen by ttame verify")
            (workspace / path).write_bytes(whole)
        print(f"{kind}: {flips}", file=sys.stderr)
    return (
        f"{flips} flipped bits in each of {len(files)} kinds of files: {seen['noticed']} were "
        f"noticed as the file was read, {seen['without effect']} changed nothing; {verified} were "
        "looked at by ttame verify too"
    ), problems


def _interrupt(lake: Lake) -> None:
    """Leave a checkpoint beside each head, as a training that is begun again does."""
    for path in lake.glob("heads/*/*/*/head.safetensors"):
        with lake.local_copy(path) as head:
            save_checkpoint(_training(lake, path), {"network": load_file(head), "step": 1})


def _training(lake: Lake, path: str) -> TrainingOutput:
    return TrainingOutput(lake, path.rsplit("/", 1)[0], "the head is trained again")


def _files_by_kind(workspace: Path) -> dict[str, list[str]]:
    """Return the paths of files whose names differ in numbers and times alone, by one for all."""
    kinds: dict[str, list[str]] = {}
    for file in sorted(p for p in workspace.rglob("*") if p.is_file()):
        path = file.relative_to(workspace).as_posix()
        kind = re.sub(r"\d{8}T\d{6}Z", "*", re.sub(r"(train|val|test)-\d+", "*", path))
        kind = re.sub(r"explainer=[^/]+", "explainer=*", kind)
        kinds.setdefault(kind, []).append(path)
    return kinds


def _content(workspace: Path, path: str) -> Any:
    """Return what a file says, as those read it who use it.

    Raises:
        UserError: the file is not as it was written.
    """
    lake = Lake(workspace)
    readers: dict[str, Callable[[], Any]] = {
        "audits": lambda: check_record(lake, "/".join(path.split("/")[:3])).model_dump(),
        ".parquet": lambda: _table(lake, path),
        ".tar": lambda: _samples(lake, path),
        ".safetensors": lambda: _weights(lake, path),
        "spec.json": lambda: _made_from(lake, path),
        "checkpoint.pt": lambda: _state(lake, path),
    }
    return next(read for name, read in readers.items() if path.startswith(name) or name in path)()


def _table(lake: Lake, path: str) -> Any:
    about = lake.metadata(path)
    named = [about.get(key.decode()) for key in (FINGERPRINT, MADE_FROM)]
    if None in named:
        raise UserError("it is made again, for it does not say what it was made from")
    table = lake.read_table(path)
    return named, table.schema.remove_metadata(), repr(table.to_pylist())


def _samples(lake: Lake, path: str) -> Any:
    _, dataset, _, name = path.split("/")
    batches = load_batches(lake, dataset, [name.removesuffix(".tar")], VIEW, 8, 1)
    return [
        (b.keys, b.labels.tolist(), b.images.numpy().tobytes(), b.objects.numpy().tobytes())
        for b in batches
    ]


def _weights(lake: Lake, path: str) -> str:
    folder = path.rsplit("/", 1)[0]
    if path.startswith("heads/"):
        whole = is_whole_head(lake, folder)
    else:
        trained = lake.metadata(f"{folder}/history.parquet").get("weights")
        whole = trained == f"sha256:{lake.sha256(path)}"
    if not whole:
        raise UserError("it is trained again")
    return lake.sha256(path)


def _state(lake: Lake, path: str) -> str:
    state = load_checkpoint(_training(lake, path))
    if state is None:
        raise UserError("the training begins anew")
    return repr(state)


def _made_from(lake: Lake, path: str) -> str:
    history = path.replace("spec.json", "history.parquet")
    try:
        says = fingerprint(json.loads(lake.read_bytes(path)))
    except ValueError as error:
        raise UserError(str(error)) from error
    if says != lake.metadata(history).get(FINGERPRINT.decode()):
        raise UserError("it is not what the head was made from")  # as ttame verify says
    return says


def swap_files(audit: spec.AuditSpec, folder: Path, swaps: int, seed: int) -> tuple[str, list[str]]:
    """Delete files, and put others of the same workspace and of another in their place.

    Args:
        audit: the audit whose workspace is damaged.
        folder: an empty folder.
        swaps: number of files that are deleted or replaced, one at a time.
        seed: what the choice follows from.

    Returns:
        What was done, and what `ttame verify` did not see.
    """
    rng, problems = random.Random(seed), []
    mine, theirs = folder / "mine", folder / "theirs"
    source = audit.dataset.source.model_copy(update={"seed": 1})
    dataset = audit.dataset.model_copy(update={"source": source})
    run_audit(audit, mine)
    run_audit(audit.model_copy(update={"dataset": dataset}), theirs)
    kinds = _files_by_kind(mine)
    done: Counter[str] = Counter()
    while done.total() < swaps:
        kind = rng.choice(sorted(kinds))
        path = rng.choice(kinds[kind])
        way = rng.choice(("deleted", "another of the workspace", "that of another workspace"))
        whole = (mine / path).read_bytes()
        other = {
            "deleted": None,
            "another of the workspace": mine / rng.choice(kinds[kind]),
            "that of another workspace": theirs / path,
        }[way]
        if other and (not other.exists() or other.read_bytes() == whole):
            continue
        (mine / path).unlink()
        if other:
            (mine / path).write_bytes(other.read_bytes())
        done[way] += 1
        if not verify(Lake(mine)):
            problems.append(f"{path}, {way}, is not seen by ttame verify")
        (mine / path).write_bytes(whole)
    ways = ", ".join(f"{count} {way}" for way, count in sorted(done.items()))
    return f"{swaps} files replaced or deleted ({ways}), each looked for by ttame verify", problems
