"""Random generators seeded by a key alone, so that no draw depends on how many came before it."""

import hashlib

import torch
from torch import Tensor


def generator(*key: object) -> torch.Generator:
    """Return a CPU generator seeded by a hash of `key`; distinct keys give independent streams."""
    digest = hashlib.sha256(repr(key).encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def permutation(count: int, *key: object) -> Tensor:
    """Return a random permutation of `count` numbers (int64 `[count]`), a function of `key` alone."""
    return torch.randperm(count, generator=generator(*key))
