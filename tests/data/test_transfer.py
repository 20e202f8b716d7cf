"""Copies to a GPU from pinned memory."""

import pytest
import torch

from wasi.data.transfer import to_device


@pytest.mark.parametrize("kind", ["cuda", "cuda:1"])
def test_a_copy_to_a_gpu_is_from_pinned_memory_and_not_waited_for(kind, monkeypatch):
    calls, device, tensor = [], torch.device(kind), torch.ones(2)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda tensor: calls.append("pinned") or tensor)
    monkeypatch.setattr(torch.Tensor, "to", lambda tensor, *args, **options: calls.append((*args, options)) or tensor)
    assert to_device(tensor, device) is tensor
    assert calls == ["pinned", (device, {"non_blocking": True})]


def test_nothing_is_copied_on_a_cpu():
    tensor = torch.ones(2)
    assert to_device(tensor, torch.device("cpu")) is tensor
