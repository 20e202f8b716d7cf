import pytest
import torch
from torchvision.models import SwinTransformer, VisionTransformer

from wasi.models.structure import linear_sites
from wasi.models.surrogate import ENERGY, KEPT, singular_values, surrogate_, surrogate_weight

# Output x input features of the blocks' linears.
VIT_B = [(2304, 768), (768, 768), (3072, 768), (768, 3072)]
DEIT_TINY = [(576, 192), (192, 192), (768, 192), (192, 768)]
SWIN_T = [shape for d in (96, 192, 384, 768) for shape in ((3 * d, d), (d, d), (4 * d, d), (d, 4 * d))]


def kept_shares(values, rows, columns):
    """Per cent of parameters kept at each threshold, by the definition of a weight's rank."""
    energy = (values.double() ** 2).cumsum(0) / (values.double() ** 2).sum()
    ranks = [int((energy < epsilon).sum()) + 1 for epsilon in ENERGY]
    return [100 * rank * (rows + columns) / (rows * columns) for rank in ranks]


@pytest.mark.parametrize("rows, columns", sorted({*VIT_B, *DEIT_TINY, *SWIN_T, (1152, 384), (384, 1536)}))
def test_spectrum_keeps_the_published_share(rows, columns):
    values = singular_values(rows, columns)
    assert len(values) == min(rows, columns) and values.min() > 0
    assert (values.diff() <= 0).all()
    assert kept_shares(values, rows, columns) == pytest.approx([100 * kept for kept in KEPT], abs=1.0)


def test_spectrum_has_no_steps():
    values = singular_values(768, 768)
    assert (values[1:] / values[:-1]).min() > 0.95


@pytest.mark.parametrize("rows, columns", VIT_B)
def test_weight_of_vit_b_32_size(rows, columns):
    weight = surrogate_weight(rows, columns, 20.0, torch.Generator().manual_seed(0))
    assert weight.shape == (rows, columns) and weight.dtype == torch.float32
    assert weight.norm().item() == pytest.approx(20.0, rel=1e-4)
    shares = kept_shares(torch.linalg.svdvals(weight), rows, columns)
    assert shares == pytest.approx([100 * kept for kept in KEPT], abs=1.0)


@pytest.mark.parametrize(
    "model",
    [VisionTransformer(16, 8, 2, 2, 128, 256), SwinTransformer([4, 4], 96, [2, 2], [3, 6], [2, 2])],
    ids=["vit", "swin"],
)
def test_every_linear_of_the_blocks_and_nothing_else(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    surrogate_(model, seed=0)
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    weights = {f"{s.name}.weight".replace("in_proj.weight", "in_proj_weight") for s in linear_sites(model, "all")}
    assert changed == weights
    for name in changed:
        weight = model.state_dict()[name]
        assert weight.norm().item() == pytest.approx(before[name].norm().item(), rel=1e-4)
        shares = kept_shares(torch.linalg.svdvals(weight), *weight.shape)
        assert shares == pytest.approx([100 * kept for kept in KEPT], abs=1.0), name


def test_seed_decides_and_global_state_is_untouched():
    state = torch.get_rng_state()
    first, again, other = (
        surrogate_weight(64, 48, 1.0, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)
    )
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), state)
