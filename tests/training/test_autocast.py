"""`device.dtype=bfloat16`: every method in autocast, near what float32 gives."""

import pytest
import torch
import torch.nn.functional as F

from tests.small import METHODS, MODELS, applied, batch
from wasi.layers.autocast import autocast_forward


def gradients(model):
    images, labels = batch()
    logits = model.train()(images)
    F.cross_entropy(logits, labels).backward()
    assert logits.dtype == torch.float32
    return {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("model_name", MODELS)
@pytest.mark.parametrize("method", METHODS)
def test_gradients_are_those_of_float32_to_bfloat16s_rounding(method, model_name):
    exact = applied(model_name, method)
    rounded = applied(model_name, method)
    autocast_forward(rounded, torch.bfloat16)
    expected, found = gradients(exact), gradients(rounded)
    assert found.keys() == expected.keys()
    assert all(grad.dtype == torch.float32 for grad in found.values())
    total, off = (torch.stack([g.square().sum() for g in some]).sum().sqrt() for some in (
        expected.values(),
        [found[name] - expected[name] for name in expected],
    ))
    assert 1e-5 < off / total < 0.05
