import pytest
import torch

from tests.oracles import decaying
from tests.small import batch, build, method
from wasi.linalg.rank import truncate
from wasi.methods.moments import second_moments
from wasi.methods.scope import scope_linears
from wasi.methods.svd_llm import stable_cholesky, whitened_factors

DOUBLE = torch.float64


@pytest.mark.parametrize("rank", [1, 4, 8])
def test_output_error_is_the_discarded_singular_values(rank):
    x, w = decaying(40, 9), torch.randn(12, 9, dtype=DOUBLE)
    moment = x.mT @ x
    left, right = whitened_factors(w, moment, rank)
    sigma = torch.linalg.svdvals(w @ torch.linalg.cholesky(moment))
    error = ((w - left @ right) @ x.mT).square().sum()
    assert torch.allclose(error, sigma[rank:].square().sum(), rtol=1e-6, atol=1e-12)
    # No other pair of that rank does better on these inputs, plain truncation included.
    assert torch.allclose(left.mT @ left, sigma[:rank].diag(), atol=1e-4)  # U sqrt(Sigma)
    u, s, vh = torch.linalg.svd(w)
    plain = u[:, :rank] * s[:rank] @ vh[:rank]
    assert error <= ((w - plain) @ x.mT).square().sum() + 1e-9


def test_singular_moment_gets_jitter():
    x = torch.randn(3, 9, dtype=DOUBLE)
    factor = stable_cholesky(x.mT @ x)
    assert torch.allclose(factor @ factor.mT, x.mT @ x, atol=1e-8)
    w = torch.randn(5, 9, dtype=DOUBLE)
    for rank in (2, 5):  # within what the data touches, and beyond
        left, right = whitened_factors(w, x.mT @ x, rank)
        assert left.isfinite().all() and right.isfinite().all()
    assert torch.allclose(left @ right, w)


@pytest.mark.parametrize("name", ["timm_vit", "swin"])
def test_moments_flatten_all_tokens(name):
    model = build(name, dtype=DOUBLE)
    linears = scope_linears(model, "all")
    seen = {}

    def see(layer, x):
        seen[layer] = x.reshape(-1, x.shape[-1])

    for layer, linear in linears.items():
        linear.register_forward_pre_hook(lambda _, args, layer=layer: see(layer, args[0]))
    moments = second_moments(model, linears, [batch(dtype=DOUBLE)])
    for layer, moment in moments.items():
        rows = seen[layer]
        assert torch.allclose(moment, rows.mT @ rows / len(rows))


def test_rank_matches_wasis_unless_a_ratio_is_given():
    w = torch.randn(24, 16)
    matched = method("svd_llm", epsilon=0.7)
    assert matched.rank(w) == truncate(w, 0.7)[0].shape[1]
    matched.keep_ratio = 0.5
    assert matched.rank(w) == int(0.5 * 24 * 16 / 40)


def test_adapters_start_as_nothing():
    model = build("timm_vit", dtype=DOUBLE)
    images, _ = batch(dtype=DOUBLE)
    model = method("svd_llm", epsilon=1.0).apply(model, [batch(dtype=DOUBLE)])
    assert torch.allclose(model.eval()(images), build("timm_vit", dtype=DOUBLE).eval()(images), atol=1e-9)


def test_a_linear_that_is_never_called_is_truncated_as_it_is():
    model = build("timm_vit", dtype=DOUBLE)
    idle = model.blocks[1].mlp
    weight = idle.fc1.weight.detach().clone()
    idle.forward = lambda x: x
    applied = method("svd_llm", "mlp", epsilon=0.7).apply(model, [batch(dtype=DOUBLE)])
    left, right = truncate(weight, 0.7)
    assert torch.allclose(applied.blocks[1].mlp.fc1.L @ applied.blocks[1].mlp.fc1.R, left @ right)
