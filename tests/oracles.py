"""Independent, dense and slow statements of what the product computes thinly."""

import torch
from torch import Tensor


def algorithm1_thin(left: Tensor, right: Tensor, m: Tensor, basis: Tensor, lr: float) -> tuple[Tensor, Tensor]:
    """`wasi.linalg.subspace.algorithm_1` for `dW = M U^T`, on thin matrices only: `W+ = [L, M] [[R], [-lr U^T]]`."""
    columns = torch.cat([left, m], 1)
    rows = torch.cat([right, -lr * basis.mT], 0)
    projected = (left.mT @ columns) @ rows
    new_left = torch.linalg.qr(columns @ (rows @ projected.mT))[0]
    return new_left, (new_left.mT @ columns) @ rows


def hosvd(x: Tensor, ranks: tuple[int, ...]) -> Tensor:
    """Truncated higher-order SVD: `x` projected on the leading singular vectors of every unfolding."""
    out = x
    for mode, rank in enumerate(ranks):
        u = torch.linalg.svd(x.movedim(mode, 0).reshape(x.shape[mode], -1), full_matrices=False)[0][:, :rank]
        out = torch.tensordot(u @ u.mT, out, ([1], [mode])).movedim(0, mode)
    return out


def decaying(*shape: int, seed: int = 0, decay: float = 0.6) -> Tensor:
    """A float64 tensor whose unfoldings all have geometrically decaying singular values."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(*shape, generator=generator, dtype=torch.float64)
    for mode, size in enumerate(shape):
        u = torch.linalg.qr(torch.randn(size, size, generator=generator, dtype=torch.float64))[0]
        scaled = u * decay ** torch.arange(size, dtype=torch.float64)
        x = torch.tensordot(scaled, x, ([1], [mode])).movedim(0, mode)
    return x


def weighted_truncation(weight: Tensor, outputs: Tensor, inputs: Tensor, rank: int) -> Tensor:
    """The `W'` of a rank that makes `tr S (W' - W) C (W' - W)^T` least: `S^1/2 W C^1/2` truncated, mapped back."""
    roots = []
    for matrix in (outputs, inputs):
        values, vectors = torch.linalg.eigh(matrix)
        roots.append((vectors * values.sqrt() @ vectors.mT, vectors / values.sqrt() @ vectors.mT))
    (s, s_inverse), (c, c_inverse) = roots
    u, values, vh = torch.linalg.svd(s @ weight @ c, full_matrices=False)
    return s_inverse @ (u[:, :rank] * values[:rank] @ vh[:rank]) @ c_inverse
