"""Random streams that are a function of their key alone, so that nothing depends on what was drawn before."""

import hashlib

import torch
from torch import Tensor


def generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by a hash of `key`; distinct keys give independent streams."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def permutation(count: int, *key: object) -> Tensor:
    """int64 `[count]`."""
    return torch.randperm(count, generator=generator(*key))
