"""Random numbers that follow from their purpose, not from the numbers drawn before them."""

from __future__ import annotations

import hashlib

import torch


def seed_of_step(seed: int, step: int, stride: int = 1, bits: int = 63) -> int:
    """Return the seed of one step, (seed · stride + step) mod 2^bits.

    Args:
        seed: seed of all steps, at least 0.
        step: number of the step, at least 0.
        stride: distance between the seeds of the same step under `seed` and `seed + 1`. With more
            than there are steps, no two steps share a seed.
        bits: number of bits that the generator takes.
    """
    return (seed * stride + step) % 2**bits


def generator_for(seed: str) -> torch.Generator:
    """Make a generator on the CPU whose numbers depend only on a text, such as an image's key."""
    digest = hashlib.sha256(seed.encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:7], "big"))
