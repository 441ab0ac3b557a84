"""The splits that names of folders and of files tell, such as `train/` and `val-00000.tar`."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator

from ttame_core import spec

NAMES: dict[str, spec.Split] = {
    "train": "train",
    "training": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
BESIDE = "lies beside the splits"  # the reason why a file or folder is left out
ORDER = {name: number for number, name in enumerate(NAMES)}  # of two names for a split, the first
WORD = re.compile(rf"(?:^|[^a-z])({'|'.join(sorted(NAMES, key=len, reverse=True))})(?![a-z])", re.I)


def split_folders(
    folders: Collection[str], images: Callable[[str], Iterator[str]]
) -> dict[spec.Split, str]:
    """Return which of the folders in a folder is which split; none unless `train` and another are.

    Folders of these names that hold images themselves, and no folders with images, may be classes:
    they are splits where no other folder beside them holds images.

    Args:
        folders: names of the folders.
        images: function that yields the paths of the images in a folder, those that lie in no
            further folder first.
    """
    splits: dict[spec.Split, str] = {}
    flat = False
    for name in sorted(folders, key=lambda name: (ORDER.get(name.lower(), 0), name)):
        split = NAMES.get(name.lower())
        if split and split not in splits and (first := next(images(name), None)):
            splits[split] = name
            flat = flat or "/" not in first
    if "train" not in splits or len(splits) < 2:
        return {}
    others = {*folders} - {*splits.values()}
    if flat and any(next(images(name), None) for name in others):
        return {}
    return {split: splits[split] for split in spec.SPLITS if split in splits}


def split_named(name: str) -> spec.Split | None:
    """Return the split that a cell of a table names, such as `valid`; None for an empty one.

    Raises:
        ValueError: it is the name of no split.
    """
    if not name.strip():
        return None
    if split := NAMES.get(name.strip().lower()):
        return split
    raise ValueError(
        f"unknown split {name!r}; allowed: {', '.join(NAMES)}; where the column means something "
        "else, name another as `split_column`"
    )


def split_of(path: str) -> spec.Split | None:
    """Return the split that a path tells by a word in it, the last one; None where none does."""
    words = WORD.findall(path)
    return NAMES[words[-1].lower()] if words else None


def split_files(paths: Iterable[str]) -> dict[str, spec.Split]:
    """Return the split of each file that tells one; none unless some are for training, some not.

    Args:
        paths: paths of files within their data set.
    """
    splits = {path: split for path in paths if (split := split_of(path))}
    told = set(splits.values())
    return splits if "train" in told and len(told) > 1 else {}
