"""Random numbers that depend on what they are for, not on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def generator_for(seed: str) -> torch.Generator:
    """A generator on the CPU whose numbers depend on the text alone: a key, a name, a seed."""
    digest = hashlib.sha256(seed.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
