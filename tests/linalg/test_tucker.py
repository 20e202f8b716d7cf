import pytest
import torch

from tests.oracles import decaying
from wasi.linalg import tucker
from wasi.linalg.spectrum import leading_subspace

SHAPES = {(6, 10): (3, 4), (6, 5, 10): (3, 2, 4), (4, 3, 5, 8): (2, 2, 3, 4)}


def bases(shape, ranks, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.linalg.qr(torch.randn(d, r, generator=generator, dtype=torch.float64))[0]
        for d, r in zip(shape, ranks, strict=True)
    ]


@pytest.mark.parametrize("shape", SHAPES)
def test_project_and_expand_against_tensordot(shape):
    x = decaying(*shape)
    for mode, u in enumerate(bases(shape, SHAPES[shape])):
        expected = torch.tensordot(u.mT, x, ([1], [mode])).movedim(0, mode)
        assert torch.allclose(tucker.project(x, u, mode), expected)
        assert torch.allclose(
            tucker.expand(expected, [u if m == mode else None for m in range(x.dim())]),
            torch.tensordot(u @ u.mT, x, ([1], [mode])).movedim(0, mode),
        )


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("out", [1, 50])
def test_weight_coordinates_are_exact_in_either_order(shape, out):
    factors = bases(shape, SHAPES[shape])
    core = torch.randn(SHAPES[shape], dtype=torch.float64)
    grad = torch.randn(*shape[:-1], out, dtype=torch.float64)
    x = tucker.expand(core, factors)
    dense = grad.reshape(-1, out).mT @ x.reshape(-1, shape[-1])
    assert torch.allclose(tucker.weight_coordinates(grad, core, factors) @ factors[-1].mT, dense)
    assert torch.allclose(tucker.weight_coordinates(grad, x, [None] * x.dim()), dense)
    assert torch.allclose(tucker.row_sum(grad), grad.reshape(-1, out).sum(0))


@pytest.mark.parametrize("shape", SHAPES)
def test_compress_keeps_the_projection_on_its_bases_and_whole_modes_as_they_are(shape):
    x = decaying(*shape)
    chosen = [None, *bases(shape, SHAPES[shape])[2:]]  # the first token mode whole
    core, factors, products = tucker.compress(x, chosen, len(x), [False] * len(chosen))
    projected = x
    for mode, u in enumerate(chosen, 1):
        if u is not None:
            projected = torch.tensordot(u @ u.mT, projected, ([1], [mode])).movedim(0, mode)
    assert torch.allclose(tucker.expand(core, factors), projected)
    assert factors[0] is None and products == [None] * len(chosen)


@pytest.mark.parametrize("shape", SHAPES)
def test_iterate_is_one_step_of_the_power_method(shape):
    x = decaying(*shape)
    for mode, u in enumerate(bases(shape, SHAPES[shape])):
        rows = x.movedim(mode, -1).reshape(-1, shape[mode])
        assert torch.allclose(tucker.iterate(x, tucker.project(x, u, mode), mode), rows.mT @ (rows @ u))


@pytest.mark.parametrize("shape", [(5, 12), (12, 5)])
def test_batch_factor_spans_the_leading_singular_vectors(shape):
    x = decaying(*shape)
    u = tucker.batch_factor(x, 3)
    exact = torch.linalg.svd(x)[0][:, :3]
    assert torch.allclose(u @ u.mT, exact @ exact.mT, atol=1e-8)


@pytest.mark.parametrize("rows, size", [(2000, 1100), (1100, 2000)])
def test_long_sides_find_the_same_rank_and_subspace(rows, size):
    u = torch.linalg.qr(torch.randn(rows, 40, dtype=torch.float64))[0]
    v = torch.linalg.qr(torch.randn(size, 40, dtype=torch.float64))[0]
    s = 0.8 ** torch.arange(40, dtype=torch.float64)
    found = leading_subspace((u * s) @ v.mT, 0.9, None)
    k = int((s.square().cumsum(0) < 0.9 * s.square().sum()).sum()) + 1
    assert found.shape == (size, k)
    assert torch.allclose(found @ found.mT, v[:, :k] @ v[:, :k].mT, atol=1e-6)


@pytest.mark.parametrize(("ranks", "order"), [((2, 30), (0, 1)), ((6, 3), (1, 0)), ((None, 3), (1, 0))])
def test_the_cheaper_order_of_modes(ranks, order):
    """8 images of 7 tokens of 32 features: by hand, `7 r_1 32 + r_1 32 r_2` against `7 32 r_2 + 7 r_1 r_2`."""
    bases = [None if rank is None else torch.eye(size)[:, :rank] for rank, size in zip(ranks, (7, 32), strict=True)]
    assert tucker._cheaper_order(torch.Size([8, 7, 32]), bases) == order
