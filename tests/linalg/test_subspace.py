"""Steps on factors against Algorithm 1 on dense matrices."""

import pytest
import torch

from tests.oracles import algorithm1_thin, decaying
from wasi.linalg import batched
from wasi.linalg.subspace import (
    algorithm_1,
    fold_,
    fold_all_,
    retract,
    retract_all,
    tangent_gradient,
    tangent_gradients,
)

LEFT, RIGHT = torch.linalg.qr(decaying(20, 6, decay=0.9))[0], decaying(6, 15, seed=1, decay=0.9)
BASIS = torch.linalg.qr(torch.randn(15, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))[0]
M = decaying(20, 4, seed=2, decay=0.9)


def fold(update, decay=1.0):
    left, right = LEFT.clone(), RIGHT.clone()
    fold_(left, right, update, BASIS, decay)
    return left, right


def test_algorithm_1_moves_no_static_weight_and_equals_its_thin_form():
    left, right = LEFT, RIGHT
    for _ in range(3):
        left, right = algorithm_1(left, right, torch.zeros(20, 15, dtype=torch.float64), 1.0)
    assert torch.allclose(left @ right, LEFT @ RIGHT)
    dense, thin = algorithm_1(LEFT, RIGHT, M @ BASIS.mT, 0.1), algorithm1_thin(LEFT, RIGHT, M, BASIS, 0.1)
    assert torch.allclose(dense[0] @ dense[1], thin[0] @ thin[1])


def test_fold_is_algorithm_1_but_for_quadratic_terms_and_left_is_orthonormal_but_for_quartic_ones():
    off, stretch = [], []
    for lr in (0.02, 0.01):
        left, right = fold(-lr * M)
        exact = algorithm_1(LEFT, RIGHT, M @ BASIS.mT, lr)
        off.append((left @ right - exact[0] @ exact[1]).norm().item())
        stretch.append((left.mT @ left - torch.eye(6, dtype=torch.float64)).norm().item())
    assert 3.5 < off[0] / off[1] < 4.5
    assert 12 < stretch[0] / stretch[1] < 20


def test_fold_with_what_an_earlier_step_has_solved_is_algorithm_1_but_for_quadratic_terms():
    off, stretch = [], []
    for lr in (0.02, 0.01):
        left, right = LEFT.clone(), RIGHT.clone()
        p = fold_(left, right, lr * M.flip(0), BASIS)
        assert fold_(left.clone(), right.clone(), -lr * M, BASIS, p=p) is p
        exact = algorithm_1(left, right, M @ BASIS.mT, lr)
        fold_(left, right, -lr * M, BASIS, p=p)
        off.append((left @ right - exact[0] @ exact[1]).norm().item())
        stretch.append((left.mT @ left - torch.eye(6, dtype=torch.float64)).norm().item())
    assert 3.5 < off[0] / off[1] < 4.5
    assert 12 < stretch[0] / stretch[1] < 20


def test_weight_decay_acts_on_the_product():
    left, right = fold(torch.zeros_like(M), decay=0.9)
    assert torch.allclose(left @ right, 0.9 * LEFT @ RIGHT) and torch.allclose(left, LEFT)


def test_a_long_fold_stays_finite():
    left, right = fold(-1e3 * M)
    assert left.isfinite().all() and right.isfinite().all()


def test_a_tangent_step_with_retraction_is_algorithm_1_but_for_quadratic_terms():
    d_weight, off = M @ BASIS.mT, []
    for lr in (0.02, 0.01):
        direction, square = tangent_gradient(d_weight @ RIGHT.mT, LEFT, RIGHT)
        left, right = retract(LEFT - lr * direction, RIGHT - lr * LEFT.mT @ d_weight)
        exact = algorithm_1(LEFT, RIGHT, d_weight, lr)
        off.append((left @ right - exact[0] @ exact[1]).norm().item())
        assert torch.allclose(left.mT @ left, torch.eye(6, dtype=torch.float64))
        assert 0 < square < d_weight.square().sum()
    assert 3.5 < off[0] / off[1] < 4.5


@pytest.mark.parametrize("known", [(), (0,), (0, 1)])
def test_weights_folded_together_are_those_folded_one_by_one(known, monkeypatch):
    together, alone = (
        [
            (LEFT.clone(), RIGHT.clone(), -0.01 * M, BASIS),
            (LEFT[:, :3].clone(), RIGHT[:3].clone(), M[:, :2], BASIS[:, :2]),
        ]
        for _ in range(2)
    )
    earlier = [fold_(left.clone(), 1.1 * right, update, basis) for left, right, update, basis in alone]
    ps = [p if number in known else None for number, p in enumerate(earlier)]
    expected = list(fold_all_(alone, [1.0, 0.9], ps))
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)
    torch.testing.assert_close((list(fold_all_(together, [1.0, 0.9], ps)), together), (expected, alone))
    assert list(fold_all_([], [], [])) == []


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_retractions_and_tangents_found_together_are_those_found_one_by_one(dtype, monkeypatch):
    weights = [(LEFT + 0.1 * decaying(20, 6, seed=3), RIGHT), (2 * LEFT[:, :3], RIGHT[:3]), (LEFT[:, :5], RIGHT[:5])]
    weights = [(left.to(dtype), right.to(dtype)) for left, right in weights]
    gradients = [((M @ M[: len(right)].mT).to(dtype), left, right) for left, right in weights]
    alone = [retract(*weight) for weight in weights], [tangent_gradient(*given) for given in gradients]
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)
    together = list(retract_all(weights)), list(tangent_gradients(gradients))
    torch.testing.assert_close(together, alone, rtol=1e-3 if dtype == torch.float32 else 1e-7, atol=1e-5)
    assert list(retract_all([])) == list(tangent_gradients([])) == []


@pytest.mark.parametrize("condition", [1.0, 10.0, 100.0])
def test_an_accelerator_needs_one_pass_for_a_left_factor_that_is_nearly_orthonormal(condition, monkeypatch):
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)
    turn = torch.linalg.qr(decaying(6, 6, decay=1.0))[0]
    left = LEFT @ (turn * torch.logspace(0, torch.tensor(condition).log10().item(), 6)) @ turn.mT
    ((q, right),) = retract_all([(left.float(), RIGHT.float())])
    assert torch.allclose(q.mT @ q, torch.eye(6), atol=1e-7 * condition + 5e-7)
    torch.testing.assert_close(q @ right, left.float() @ RIGHT.float(), rtol=1e-4, atol=1e-5 * condition)


def test_weights_of_very_different_ranks_are_folded_in_batches_of_their_own(monkeypatch):
    sizes, stacked = set(), batched.stacked
    monkeypatch.setattr(batched, "stacked", lambda *args: sizes.add(len(args[0])) or stacked(*args))
    thin = (LEFT[:, :2].clone(), RIGHT[:2].clone(), M[:, :1], BASIS[:, :1])
    weights = [(LEFT.clone(), RIGHT.clone(), -0.01 * M, BASIS), thin]
    alone = [tuple(tensor.clone() for tensor in weight) for weight in weights]
    expected = [fold_(*weight, decay) for weight, decay in zip(alone, [1.0, 0.9], strict=True)]
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)
    found = list(fold_all_(weights, [1.0, 0.9], [None, None]))
    torch.testing.assert_close((found, weights), (expected, alone))
    assert sizes == {1}
