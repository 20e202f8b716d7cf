import pytest
import torch
from omegaconf import OmegaConf

from scripts.ship_vit_micro import ship
from wasi.errors import UserError
from wasi.models import micro
from wasi.models.build import build_model
from wasi.models.input_spec import input_spec


def config(weights="random"):
    return OmegaConf.create({"name": "vit_micro", "library": "wasi", "weights": str(weights)})


def build(weights="random", size=None, classes=10, seed=0):
    return build_model(config(weights), classes, input_spec(config(weights), size), seed)


@pytest.mark.parametrize("size", [28, 32])
def test_output_shape_and_parameter_count(size):
    model = build(size=size)
    assert model(torch.zeros(2, 3, size, size)).shape == (2, 10)
    assert 0.45e6 < sum(p.numel() for p in model.parameters()) < 0.5e6


def test_default_spec_is_that_of_fashion_mnist():
    spec = input_spec(config(), None)
    assert (spec.image_size, spec.mean, spec.std) == (28, (0.2860,) * 3, (0.3530,) * 3)


def test_size_the_patch_does_not_divide():
    with pytest.raises(UserError, match="dataset.image_size=30"):
        input_spec(config(), 30)


def test_seed_decides_weights_and_leaves_global_state_alone():
    torch.manual_seed(7)
    expected = torch.rand(3)
    torch.manual_seed(7)
    first, again, other = build(seed=1), build(seed=1), build(seed=2)
    assert torch.equal(torch.rand(3), expected)
    assert torch.equal(first.head.weight, again.head.weight)
    assert not torch.equal(first.blocks[0].mlp.fc1.weight, other.blocks[0].mlp.fc1.weight)


def test_export_then_load_keeps_backbone_to_half_precision(tmp_path):
    from safetensors.torch import load_file, save_file

    trained = build(seed=3)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    shipped = ship(tmp_path, tmp_path / "out" / "vit_micro.safetensors")
    state = load_file(shipped)
    assert {v.dtype for v in state.values()} == {torch.float16}
    assert not any(key.startswith("head.") for key in state)
    assert shipped.stat().st_size < 2 * 2**20
    assert [p.name for p in shipped.parent.iterdir()] == ["vit_micro.safetensors"]

    loaded = build(weights=shipped, classes=7, seed=4)
    assert loaded.head.weight.shape == (7, 96)
    for key, value in loaded.state_dict().items():
        if not key.startswith("head."):
            assert value.dtype == torch.float32
            assert torch.equal(value, trained.state_dict()[key].half().float()), key


def test_weights_fit_32_pixels(tmp_path):
    from safetensors.torch import save_file

    trained = build(seed=3)
    save_file(trained.state_dict(), tmp_path / "model.safetensors")
    loaded = build(weights=tmp_path / "model.safetensors", size=32)
    assert loaded.pos_embed.shape == (1, 65, 96)
    assert torch.equal(loaded.pos_embed[:, 0], trained.pos_embed[:, 0])  # the class token's stays


def test_export_of_another_model(tmp_path):
    from safetensors.torch import save_file

    save_file({"blocks.0.mlp.fc1.L": torch.zeros(2, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(UserError, match="low-rank factors"):
        ship(tmp_path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_export_of_no_run(tmp_path):
    with pytest.raises(UserError, match="RUN="):
        ship(tmp_path)


def test_missing_shipped_file(monkeypatch, tmp_path):
    monkeypatch.setattr(micro, "SHIPPED_WEIGHTS", tmp_path / "absent.safetensors")
    with pytest.raises(UserError, match="model.weights=pretrained"):
        build(weights="pretrained")
