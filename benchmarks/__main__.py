"""`make bench`: speed and memory, as ratios within one run."""

from __future__ import annotations

import argparse
import platform
import warnings
from pathlib import Path

import torch
from rich.console import Console

from benchmarks import (
    bulk,
    checksums,
    commands,
    cost,
    leaderboard,
    memory,
    metrics,
    planted,
    real,
    rise,
    scaling,
    server,
    stages,
    storage,
    versus,
)
from ttame_core.backbones.devices import keep_freed_memory

PARTS = (
    *("cost", "rise", "bulk", "metrics", "stages", "scaling", "server", "leaderboard", "memory"),
    *("storage", "checksums", "commands", "versus"),
)
ASKED_FOR = ("real", "planted")  # parts that take the user's pictures or hours, and run by name


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("models", nargs="*", help="timm names; default: those of cost, versus")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--no-memory", dest="memory", action="store_false")
    parser.add_argument("--only", nargs="+", choices=PARTS + ASKED_FOR, default=PARTS)
    parser.add_argument("--samples", type=int, nargs="+", default=memory.SAMPLES)
    parser.add_argument("--stages", nargs="+", choices=memory.STAGES, default=list(memory.STAGES))
    of_real = parser.add_argument_group("real", "see benchmarks/real.py")
    of_real.add_argument("--pictures", type=Path, nargs=2, metavar=("TEN", "MANY"))
    of_real.add_argument("--workspace", type=Path, default=Path("build/real"))
    of_real.add_argument("--seeds", type=int, default=3)
    of_real.add_argument("--backbones", nargs="+", choices=real.BACKBONES, default=real.BACKBONES)
    parser.add_argument(
        "--images", type=int, help="real: for insertion, deletion, ROAD (100); versus: all (256)"
    )
    planted.add_options(parser.add_argument_group("planted", "see benchmarks/planted.py"))
    options = parser.parse_args()
    timed = options.models or cost.MODELS
    if "real" in options.only and not options.pictures:
        parser.error("--only real needs --pictures TEN MANY, two folders (benchmarks/real.py)")
    warnings.simplefilter("ignore")
    keep_freed_memory()
    cuda = torch.cuda.is_available()
    device = torch.cuda.get_device_name() if cuda else f"{torch.get_num_threads()} CPU threads"
    console = Console(width=100)
    console.print(
        f"torch {torch.__version__}, {device}, {platform.machine()}. RISE is timed on "
        f"{cost.RISE_TIMED} masks and extrapolated. Medians of {options.rounds} interleaved rounds."
    )
    where = "cuda" if cuda else "cpu"
    for model in timed if "cost" in options.only else ():
        console.print(
            cost.compare(model, options.batch_size, options.rounds, where, options.memory)
        )
    if "cost" in options.only and not cuda:
        console.print(cost.memory_kept(timed, options.batch_size, options.rounds))
    if "rise" in options.only:
        console.print(rise.compare(options.rounds, where))
    if "bulk" in options.only:
        console.print(bulk.compare(where))
    if "metrics" in options.only:
        for table in metrics.compare(where, options.batch_size, options.rounds):
            console.print(table)
    if "stages" in options.only:
        console.print(stages.compare(where))
    if "scaling" in options.only:
        console.print(scaling.compare())
    if "server" in options.only:
        console.print(server.compare())
    if "leaderboard" in options.only:
        for table in leaderboard.compare():
            console.print(table)
    if "memory" in options.only:
        console.print(memory.compare(options.samples, options.stages))
    if "storage" in options.only:
        console.print(storage.compare(where))
    if "checksums" in options.only:
        console.print(checksums.compare())
    if "commands" in options.only:
        console.print(commands.compare(options.rounds))
    if "versus" in options.only:
        for table in versus.compare(
            options.models or versus.MODELS, options.images or versus.IMAGES
        ):
            console.print(table)
    if "planted" in options.only:
        for table in planted.tables(options):
            console.print(table)
    if "real" in options.only:
        chosen = options.workspace, options.seeds, options.backbones, options.images or 100
        for table in real.compare(options.pictures, *chosen):
            console.print(table)


if __name__ == "__main__":
    main()
