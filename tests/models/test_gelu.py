import copy

import pytest
import timm
import torch
from torch import nn
from torchvision.models import VisionTransformer

from tests.small import applied
from wasi.models.gelu import OverwritingGELU, overwrite_hidden


def vit():
    return VisionTransformer(16, 8, 2, 2, 12, 24, num_classes=5)


def timm_vit():
    options = {"img_size": 16, "patch_size": 8, "embed_dim": 12, "num_heads": 2, "depth": 2, "num_classes": 5}
    return timm.create_model("vit_tiny_patch16_224", **options)


@pytest.mark.parametrize("build", [vit, timm_vit])
def test_the_same_numbers_with_and_without_gradients(build):
    torch.manual_seed(0)
    original = build().eval()
    for parameter in original.parameters():
        nn.init.normal_(parameter, std=0.3)
    model = overwrite_hidden(copy.deepcopy(original))
    assert sum(isinstance(m, OverwritingGELU) for m in model.modules()) == 2
    images = torch.randn(2, 3, 16, 16)
    kept = images.clone()
    torch.testing.assert_close(model(images), original(images), rtol=0, atol=0)
    with torch.no_grad():
        torch.testing.assert_close(model(images), original(images))
    assert torch.equal(images, kept)


@pytest.mark.parametrize("approximate", ["none", "tanh"])
def test_it_overwrites_only_where_no_gradient_is_wanted(approximate):
    gelu, x = OverwritingGELU(approximate), torch.randn(3, 40)
    before, expected = x.clone(), nn.GELU(approximate)(x)
    assert torch.equal(gelu(x), expected) and torch.equal(x, before)
    with torch.no_grad():
        assert gelu(x).data_ptr() == x.data_ptr()
    torch.testing.assert_close(x, expected)


def test_a_gelu_whose_input_others_may_see_is_left_alone():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear, self.act = nn.Linear(12, 12), nn.GELU()

        def forward(self, x):
            y = self.linear(x)
            return y * self.act(y)

    model = vit()
    block = model.encoder.layers[0]
    block.mlp = Gated()
    block.norm_first = nn.Sequential(nn.LayerNorm(12), nn.GELU())
    overwrite_hidden(model)
    assert type(block.mlp.act) is nn.GELU and type(block.norm_first[1]) is nn.GELU


@pytest.mark.parametrize("scope", ["mlp", "all"])
@pytest.mark.parametrize("name", ["torchvision_vit", "timm_vit"])
@pytest.mark.parametrize(("method", "overwrites"), [("vanilla", False), ("wasi", True), ("lora", True)])
def test_every_method_but_vanilla_overwrites(name, method, overwrites, scope):
    kinds = {type(m) for m in applied(name, method, scope=scope).modules() if isinstance(m, nn.GELU)}
    assert kinds == {OverwritingGELU if overwrites else nn.GELU}
