"""The registered formulas against counts by hand."""

import pytest
import torch
import torch.nn.functional as F

from wasi.measure.dispatch_flops import flop_counter


def total(run) -> int:
    with flop_counter() as counter:
        run()
    return counter.get_total_flops()


def test_attention_forward_and_backward():
    q, k, v = (torch.randn(2, 3, n, 8, requires_grad=True) for n in (5, 7, 7))
    pairs = 2 * 3 * 5 * 7
    assert total(lambda: F.scaled_dot_product_attention(q, k, v)) == 2 * pairs * (8 + 8)
    out = F.scaled_dot_product_attention(q, k, v)
    assert total(lambda: out.sum().backward()) == 2 * pairs * 5 * 8


@pytest.mark.parametrize(
    ("run", "flops"),
    [
        (lambda a, s: torch.linalg.qr(a), 4 * 40 * 100 - 4 * 1000 // 3),
        (lambda a, s: torch.linalg.qr(a.mT), 4 * 40 * 100 - 4 * 1000 // 3),
        (lambda a, s: torch.linalg.svd(a, full_matrices=False), 6 * 40 * 100 + 20 * 1000),
        (lambda a, s: torch.linalg.eigh(s), 9 * 1000),
        (lambda a, s: torch.linalg.cholesky(s), 333),
        (lambda a, s: torch.cholesky_solve(a.mT, s), 2 * 100 * 40),
        (lambda a, s: torch.linalg.solve_triangular(s, a, upper=False, left=False), 100 * 40),
        (lambda a, s: torch.linalg.solve_triangular(s, a.mT, upper=False), 100 * 40),
        (lambda a, s: a @ s[0], 2 * 40 * 10),
        (lambda a, s: a.clone().addmm_(a, s), 2 * 40 * 100),
        (lambda a, s: a[None].clone().baddbmm_(a[None], s[None]), 2 * 40 * 100),
        (lambda a, s: torch.linalg.eigh(s.expand(3, 10, 10)), 3 * 9 * 1000),
    ],
)
def test_decompositions(run, flops):
    assert total(lambda: run(torch.randn(40, 10), torch.eye(10))) == flops


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("transposed", [False, True])
def test_gradients_of_a_convolution_take_what_it_takes_itself_each(groups, transposed):
    kind = torch.nn.ConvTranspose2d if transposed else torch.nn.Conv2d
    layer, x = kind(6, 12, 3, stride=2, padding=1, groups=groups), torch.randn(2, 6, 9, 9)
    sites, kernel = 2 * (81 if transposed else 25), 9 * 6 * 12 // groups
    assert total(lambda: layer(x)) == 2 * sites * kernel
    out = layer(x)
    assert total(lambda: out.sum().backward()) == 2 * sites * kernel  # of the weight alone
    out = layer(x.requires_grad_())
    assert total(lambda: out.sum().backward()) == 2 * 2 * sites * kernel
