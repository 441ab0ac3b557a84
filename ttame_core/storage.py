"""Folders and object stores, reached through fsspec.

Credentials come from the usual chain of each store (environment, configuration files, the machine's
role), never from an address, because addresses are written into records, logs and specs.
"""

from __future__ import annotations

import errno
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem

from ttame_core.errors import StoreAway, UserError
from ttame_core.stopping import scratch

EXTRAS = {"s3": "s3", "s3a": "s3", "gs": "gcs", "gcs": "gcs"}  # extra of ttame for a protocol
CLIENTS = ("botocore", "aiobotocore", "aiohttp", "gcsfs", "google", "requests", "urllib3")
FULL = (errno.ENOSPC, errno.EDQUOT)
BLOCK = 8 * 2**20  # bytes that a stream reads in one request


@contextmanager
def temporary_folder() -> Iterator[Path]:
    """Yield a folder for temporary files, which is removed at the end of the context.

    Raises:
        UserError: there is no room for temporary files.
    """
    try:
        with tempfile.TemporaryDirectory(prefix="ttame-") as folder, scratch(Path(folder)):
            yield Path(folder)
    except Exception as error:
        if isinstance(error, UserError) or not is_full(error):
            raise
        place = tempfile.tempdir or os.environ.get("TMPDIR") or "the system's temporary folder"
        raise UserError(
            f"there is no room for temporary files in {place} ({error}): make room there, or name "
            "another folder in the environment variable TMPDIR; what is whole stays"
        ) from error


def is_full(error: BaseException) -> bool:
    """Say whether an error is that of a disk, or of the folders for temporary files, being full."""
    words = str(error)  # DuckDB's errors have no number
    return getattr(error, "errno", None) in FULL or any(
        of in words for of in ("No space left on device", "No usable temporary directory")
    )


def without_credentials(place: str) -> str:
    """Return an address as it is, after checking that there are no credentials in it.

    Raises:
        UserError: the address has credentials; the message does not repeat them.
    """
    protocol, separator, rest = place.partition("://")
    if separator and ("@" in rest.split("/")[0] or re.search(r"\?.*=", rest)):
        raise UserError(
            f"an address {protocol}://… has a user name, a password or a key in it: leave them out "
            "and give them as the store's own tools take them, in the environment (for S3 "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) or in their configuration file"
        )
    return place


def without_password(address: str) -> str:
    """Return an address without a user's name and password, for people to read."""
    return re.sub(r"//[^/@\s]*@", "//", address)


def file_system(place: str) -> tuple[fsspec.AbstractFileSystem, str]:
    """Return the file system of a folder or URL, and its path there.

    Listings of an object store are not cached, because other machines change the store.

    Raises:
        UserError: the URL has credentials, its protocol is unknown, or a package is missing.
    """
    protocol = fsspec.utils.get_protocol(without_credentials(place))
    options: dict[str, Any] = {"use_listings_cache": False}
    if protocol in ("file", "local"):
        options = {"auto_mkdir": True}
    elif EXTRAS.get(protocol) == "s3":
        options["default_block_size"] = BLOCK
    try:
        return fsspec.url_to_fs(place, **options)
    except ImportError as error:
        extra = EXTRAS.get(protocol)
        how = f"pip install 'ttame[{extra}]'" if extra else "install the package of that name"
        raise UserError(f"{place} cannot be used ({error}): {how}") from error
    except ValueError as error:
        raise UserError(f"{place} cannot be used: {error}") from error


@contextmanager
def reaching(place: str, fs: fsspec.AbstractFileSystem) -> Iterator[None]:
    """Turn the errors of an object store in this context into sentences.

    Errors of local folders are left as they are.

    Args:
        place: address, for the message.
        fs: the file system.

    Raises:
        UserError: the store refuses the credentials.
        StoreAway: the store does not answer, after its client's own retries.
    """
    try:
        yield
    except Exception as error:
        if isinstance(fs, LocalFileSystem) or isinstance(error, FileNotFoundError):
            raise
        words = " ".join(str(error).split())[:200]
        if isinstance(error, PermissionError) or "Credentials" in type(error).__name__:
            raise UserError(
                f"the object store refuses these credentials for {place} ({words}): give others, "
                "in the environment or in the configuration file of the store's own tools"
            ) from error
        if isinstance(error, OSError) or type(error).__module__.split(".")[0] in CLIENTS:
            raise StoreAway(
                f"the object store of {place} does not answer as it should ({words}): run again "
                "when it does; finished files stay"
            ) from error
        raise
