"""What a person does to single files of a workspace by hand."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from ttame_core.lake import Lake
from ttame_core.lake.seals import BLANK, KEY, seal


def flip(path: Path) -> None:
    """Flip a bit in the middle."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def cut(path: Path) -> None:
    """Cut off the end."""
    path.write_bytes(path.read_bytes()[:-30])


def delete(path: Path) -> None:
    """Delete the file."""
    path.unlink()


def edit(path: Path) -> None:
    """Write a Parquet file again, with its metadata and other rows."""
    pq.write_table(pq.read_table(path).slice(1), path)


def replace(path: Path) -> None:
    """Put the file of another shard in the place of one."""
    shutil.copy(next(p for p in sorted(path.parent.glob(f"*{path.suffix}")) if p != path), path)


def rename(path: Path) -> None:
    """Give the file another name."""
    path.rename(path.with_name(f"old-{path.name}"))


def reword(path: Path) -> None:
    """Edit a text."""
    path.write_text(path.read_text().replace("net", "not"))


def swap(path: Path) -> None:
    """Exchange the file of an explainer with that of `random`."""
    other = Path(re.sub("explainer=[^/]+", "explainer=random", str(path)))
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


def put_back(path: Path) -> None:
    """Put a copy of before in the place of a Parquet file: whole, but made of something else."""
    workspace = next(p for p in path.parents if (p / "datasets").is_dir())
    lake, name = Lake(workspace), str(path.relative_to(workspace))
    about = {k: v for k, v in lake.metadata(name).items() if not k.startswith("ttame.")}
    table = lake.read_table(name)
    made_from = json.loads(lake.metadata(name)["ttame.made_from"])
    schema = table.schema.remove_metadata()
    lake.write_parquet(name, table.to_pylist(), schema, {"before": made_from}, **about)


def inflate(path: Path) -> None:
    """Put rows without end in the place of a Parquet file's, in 100 kB and with a right hash."""
    about = {**pq.read_metadata(path).metadata, KEY: BLANK}
    del about[b"ARROW:schema"]
    table = pa.table({"key": pa.nulls(30_000_000)})
    with pq.ParquetWriter(path, table.schema, compression="zstd") as writer:
        writer.write_table(table)
        writer.add_key_value_metadata(about)
    seal(path)
    assert path.stat().st_size < 100_000
