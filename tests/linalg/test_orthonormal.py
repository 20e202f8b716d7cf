import pytest
import torch

from tests.oracles import decaying
from wasi.linalg import batched, orthonormal
from wasi.linalg.batched import in_batches
from wasi.linalg.orthonormal import cholesky_solve, independent_columns, qr_near_orthonormal, qr_positive

DOUBLE = torch.float64


def test_positive_qr():
    a = torch.randn(9, 4, dtype=DOUBLE)
    q, t = qr_positive(a)
    assert torch.allclose(q @ t, a)
    assert torch.allclose(q.mT @ q, torch.eye(4, dtype=DOUBLE))
    assert (t.diagonal() > 0).all() and torch.equal(t, t.triu())


def test_cholesky_route_equals_householder():
    start = qr_positive(torch.randn(30, 5, dtype=DOUBLE))[0] + 0.02 * torch.randn(30, 5, dtype=DOUBLE)
    for fast, exact in zip(qr_near_orthonormal(start), qr_positive(start), strict=True):
        assert torch.allclose(fast, exact, atol=1e-12)


def test_a_second_pass_makes_up_for_a_worse_condition():
    q = qr_positive(torch.randn(60, 6, dtype=DOUBLE))[0]
    a = (q * torch.tensor([1.0, 0.5, 0.3, 0.1, 0.05, 0.02]) + 0.01 * q[:, :1]).float()
    left, t = qr_near_orthonormal(a)
    assert torch.allclose(left.mT @ left, torch.eye(6), atol=2e-6)
    assert torch.allclose(left @ t, a, atol=1e-6) and torch.equal(t, t.triu()) and (t.diagonal() > 0).all()


def test_ill_conditioned_columns_stay_orthonormal_in_single_precision():
    a = decaying(60, 8, decay=0.3).float()
    q = qr_near_orthonormal(a)[0]
    assert torch.allclose(q.mT @ q, torch.eye(8), atol=1e-5)


def test_columns_of_very_different_length_become_orthonormal_in_place():
    q = qr_positive(torch.randn(60, 8))[0]
    a = (q + 0.1 * q[:, :1]) * torch.logspace(0, -20, 8)
    found = independent_columns(a, otherwise=torch.zeros_like(a))
    assert torch.allclose(found.mT @ found, torch.eye(8), atol=1e-5)
    assert (torch.linalg.vecdot(found, a, dim=0) > 0).all()


@pytest.mark.parametrize("on_cpu", [True, False])
def test_dependent_columns_leave_what_there_was(on_cpu, monkeypatch):
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: on_cpu)
    column, before = torch.randn(20, 1), torch.randn(20, 3)
    q = independent_columns(torch.cat([column, column, torch.zeros(20, 1)], 1), otherwise=before)
    assert torch.equal(q, before)


@pytest.mark.parametrize("stack", [(), (3,)])
def test_two_triangular_solves_are_a_cholesky_solve(stack, monkeypatch):
    a = torch.randn(*stack, 5, 9, dtype=DOUBLE)
    lower = torch.linalg.cholesky(a @ a.mT)
    rows = torch.randn(*stack, 5, 4, dtype=DOUBLE)
    expected = cholesky_solve(rows, lower)
    assert torch.equal(expected, torch.cholesky_solve(rows, lower))
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)
    monkeypatch.setattr(torch, "cholesky_solve", lambda *args: pytest.fail("takes one matrix after another"))
    torch.testing.assert_close(cholesky_solve(rows, lower), expected)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e4])
def test_without_reading_any_condition_gives_the_same(condition, monkeypatch):
    generator = torch.Generator().manual_seed(3)
    u, _ = torch.linalg.qr(torch.randn(40, 6, generator=generator))
    v, _ = torch.linalg.qr(torch.randn(6, 6, generator=generator))
    a = u * torch.logspace(0, -float(torch.log10(torch.tensor(condition))), 6) @ v.mT
    expected = qr_positive(a.double())
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)
    q, t = qr_near_orthonormal(a)
    assert torch.allclose(q.mT @ q, torch.eye(6), atol=1e-5)
    assert torch.allclose(q @ t, a, atol=1e-5)
    assert torch.allclose(q.double(), expected[0], atol=1e-6 * condition + 1e-5)


def test_a_matrix_without_a_factor_is_an_error_or_nan(monkeypatch):
    indefinite = torch.diag(torch.tensor([1.0, -1.0]))
    with pytest.raises(torch.linalg.LinAlgError):
        orthonormal.cholesky(indefinite)
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: False)
    assert orthonormal.cholesky(indefinite).isnan().any()


@pytest.mark.parametrize("on_cpu", [True, False])
def test_bases_found_together_are_those_found_one_by_one(on_cpu, monkeypatch):
    iterates = [torch.randn(rows, 3, dtype=torch.float64) for rows in (9, 12, 9)]
    iterates[2][:, 1] = iterates[2][:, 0]  # depends on another column, so its basis stays
    before = [torch.zeros_like(a) for a in iterates]
    expected = [independent_columns(a, b) for a, b in zip(iterates, before, strict=True)]
    monkeypatch.setattr(batched, "is_on_cpu", lambda a: on_cpu)
    batches = in_batches(independent_columns, iterates, before)
    found = {number: one for numbers, bases in batches for number, one in zip(numbers, bases, strict=True)}
    assert list(sorted(found)) == [0, 1, 2] and torch.equal(found[2], before[2])
    for number, one in enumerate(expected):
        torch.testing.assert_close(found[number], one)
