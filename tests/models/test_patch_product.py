import copy

import pytest
import torch
from torch import nn

from tests.small import applied
from wasi.models.patch_product import PatchConv2d, multiply_patches


def net(conv):
    torch.manual_seed(0)
    return nn.Sequential(conv, nn.Flatten(2))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("size", [(12, 8), (13, 9)])  # a convolution may leave pixels over
def test_the_same_output_and_gradients(bias, size):
    original = net(nn.Conv2d(3, 5, (4, 2), (4, 2), bias=bias)).double()
    model = multiply_patches(copy.deepcopy(original))
    images = torch.randn(2, 3, *size, dtype=torch.float64, requires_grad=True)
    again = images.detach().clone().requires_grad_()
    expected, actual = original(images), model(again)
    assert type(model[0]) is PatchConv2d and set(model.state_dict()) == set(original.state_dict())
    torch.testing.assert_close(actual, expected)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (actual * weights).sum().backward()
    torch.testing.assert_close(again.grad, images.grad)
    for ours, theirs in zip(model.parameters(), original.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


def test_images_are_kept_for_the_backward_pass_and_not_their_patches():
    model, kept = multiply_patches(net(nn.Conv2d(3, 5, 4, 4))), []
    images = torch.randn(2, 3, 8, 8)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.data_ptr()) or t, lambda t: t):
        model(images)
    assert set(kept) == {images.data_ptr(), model[0].weight.data_ptr()}


def test_an_input_changed_in_place_is_told():
    model = multiply_patches(net(nn.Conv2d(3, 5, 4, 4)))
    images = torch.randn(2, 3, 8, 8)
    out = model(images)
    images.zero_()
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def test_no_images():
    conv = nn.Conv2d(3, 5, 4, 4)
    assert multiply_patches(net(conv))[0](torch.randn(0, 3, 8, 8)).shape == (0, 5, 2, 2)


@pytest.mark.parametrize(
    "options", [{"stride": 2}, {"padding": 1}, {"dilation": 2}, {"groups": 3}, {"padding": "same", "stride": 1}]
)
def test_other_convolutions_are_left_alone(options):
    conv = nn.Conv2d(3, 6, 4, **{"stride": 4, **options})
    assert type(multiply_patches(net(conv))[0]) is nn.Conv2d


def test_only_the_first_convolution_is_replaced():
    model = multiply_patches(nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 6, 2, 2)))
    assert [type(m) for m in model] == [PatchConv2d, nn.Conv2d]


def test_parameters_and_mode_carry_over():
    conv = nn.Conv2d(3, 6, 4, 4).eval()
    conv.weight.requires_grad_(False)
    made = multiply_patches(net(conv))[0]
    assert made.weight is conv.weight and made.bias is conv.bias and not made.training


@pytest.mark.parametrize("name", ["torchvision_vit", "timm_vit", "swin"])
def test_every_method_but_vanilla_does_so(name):
    for method, found in (("vanilla", 0), ("wasi", 1), ("lora", 1)):
        model = applied(name, method, torch.float32)
        assert sum(isinstance(m, PatchConv2d) for m in model.modules()) == found
