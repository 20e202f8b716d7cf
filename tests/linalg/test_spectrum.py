import pytest
import torch

from tests.oracles import decaying
from wasi.linalg.angles import principal_angles
from wasi.linalg.rank import explained_rank
from wasi.linalg.spectrum import mode_rank, mode_spectrum, mode_subspace


@pytest.mark.parametrize("piece", [2**20, 16])
@pytest.mark.parametrize("shape", [(6, 9), (6, 5, 9), (4, 3, 5, 9), (2, 3, 40)])
def test_mode_spectrum_is_the_svd_of_the_unfolding(shape, piece, monkeypatch):
    monkeypatch.setattr("wasi.linalg.spectrum._PIECE", piece)
    x = decaying(*shape)
    for mode, d in enumerate(shape):
        u, s, _ = torch.linalg.svd(x.movedim(mode, 0).reshape(d, -1), full_matrices=False)
        rank = explained_rank(s.square(), 0.9)
        basis, energies = mode_spectrum(x, mode, 0.9)
        assert basis.shape == (d, rank) and torch.allclose(energies, s[:rank].square())
        assert principal_angles(basis, u[:, :rank]).max() < 1e-4
        assert mode_rank(x, mode, 0.9) == rank and mode_rank(x, mode, 1) == d
        assert principal_angles(mode_subspace(x, mode, rank), u[:, :rank]).max() < 1e-4


def test_long_sides_are_iterated(monkeypatch):
    x = decaying(4, 5, 24)
    exact, energies = mode_spectrum(x, 2, 0.9)
    monkeypatch.setattr("wasi.linalg.spectrum.EXACT_SIDE", 8)
    basis, found = mode_spectrum(x, 2, 0.9)
    assert basis.shape == exact.shape and torch.allclose(found, energies, rtol=1e-6)
    assert principal_angles(basis, exact).max() < 1e-2
    assert mode_rank(x, 2, 0.9) == exact.shape[1]
    assert principal_angles(mode_subspace(x, 2, exact.shape[1]), exact).max() < 1e-2
