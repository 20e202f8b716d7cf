"""Copies from the host's memory to a device."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return `tensor` on `device`. The host waits neither for a copy to a GPU nor for the GPU's earlier work.

    That takes pinned memory: for a copy from other memory, CUDA first waits for all work on the stream.
    """
    if tensor.device.type != "cpu" or device.type == "cpu":
        return tensor.to(device)
    pinned = tensor.pin_memory() if device.type == "cuda" else tensor
    return pinned.to(device, non_blocking=True)
