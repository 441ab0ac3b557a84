"""Random numbers that depend on what they are for, not on what was drawn before."""

from __future__ import annotations

import hashlib

import torch


def seed_of_step(seed: int, step: int, stride: int = 1, bits: int = 63) -> int:
    """Return a seed for one step of what `seed` begins, of as many bits as its generator takes.

    Args:
        seed: at least 0, however large.
        step: at least 0.
        stride: how far the first seeds of neighbouring `seed` are apart: more than there are steps.
        bits: of the result.
    """
    return (seed * stride + step) % 2**bits


def generator_for(seed: str) -> torch.Generator:
    """A generator on the CPU whose numbers depend on the text alone: a key, a name, a seed."""
    digest = hashlib.sha256(seed.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
