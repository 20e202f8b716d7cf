"""`device.dtype=bfloat16`: every method in autocast, near what float32 gives, and counted alike."""

import pytest
import torch
import torch.nn.functional as F

from tests.small import METHODS, MODELS, applied, batch, build, has_own_layers
from tests.small import method as make
from wasi.layers.autocast import autocast_forward
from wasi.measure.run import counts
from wasi.training.step import TrainStep


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


@pytest.mark.parametrize(
    ("method", "model_name"),
    [*((method, "timm_vit") for method in METHODS), ("vanilla", "torchvision_vit"), ("vanilla", "swin")],
)
def test_work_and_weights_are_the_same_and_stored_inputs_take_half_the_bytes(method, model_name):
    """Autocast multiplies with copies of the weights, of which neither counts as a saved input."""
    images, labels = batch()

    def counted(narrow):
        applying = make(method)
        model = applying.apply(build(model_name), [(images, labels)])
        if narrow:
            autocast_forward(model, torch.bfloat16)
        optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1e-3)
        found = counts(applying, TrainStep(model, optimizer, lambda x: x), "all", (images, labels), images)
        return found.pop("memory/stored_inputs_mib"), found, has_own_layers(model)

    (whole, expected, own), (half, found, _) = counted(False), counted(True)
    assert found == expected and (half == whole / 2 or own)
