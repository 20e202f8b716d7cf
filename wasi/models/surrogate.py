"""Random weights with the singular spectrum of a pretrained ViT-B/32, for timing without pretrained weights.

In every linear layer of the blocks, the cumulative squared singular values reach the shares `ENERGY` at the ranks that
keep the shares `KEPT` of the layer's parameters (rank K keeps `K (O + I) / (O I)`). Singular vectors are random. So
ranks at a threshold, and thereby cost and memory, are those of a real model; accuracy is not.
"""

import torch
from torch import Tensor, nn

from wasi.models.mapped import release_pages
from wasi.models.structure import linear_sites, site_parameters

ENERGY = (0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
KEPT = (0.10, 0.15, 0.22, 0.29, 0.40, 0.57)
# KEPT with two values moved within its rounding: two intervals of equal slope would give equal singular values.
_AIM = (0.10, 0.15, 0.218, 0.292, 0.40, 0.57)
_COARSE = 0.04  # share of a layer's parameters per rank, above which knots are not adjusted to whole ranks


def surrogate_(model: nn.Module, seed: int) -> nn.Module:
    """Replace the weights of the blocks' linear layers in place, keeping their Frobenius norms, and return `model`."""
    generator = torch.Generator().manual_seed(seed)
    for site in linear_sites(model, "all"):
        weight = site_parameters(model, site)["weight"]
        with torch.no_grad():
            rows, columns = weight.shape
            weight.copy_(surrogate_weight(rows, columns, float(weight.norm()), generator))
        release_pages([weight])
    return model


def surrogate_weight(rows: int, columns: int, norm: float, generator: torch.Generator) -> Tensor:
    """Return a float32 `rows x columns` matrix with the spectrum above and Frobenius norm `norm`."""
    values = norm * singular_values(rows, columns).to(torch.float32)
    rank = len(values)
    left = _orthonormal(rows, rank, generator)
    left *= values
    return left @ _orthonormal(columns, rank, generator).T


def singular_values(rows: int, columns: int) -> Tensor:
    """Return decreasing singular values with unit sum of squares; float64, length `min(rows, columns)`."""
    rank = min(rows, columns)
    per_rank = (rows + columns) / (rows * columns)
    knots = torch.tensor([0.0, *_knots(per_rank), rank * per_rank], dtype=torch.float64)
    energy = torch.tensor([0.0, *ENERGY, 1.0], dtype=torch.float64)
    kept = torch.arange(rank + 1, dtype=torch.float64) * per_rank
    return _concave(kept, knots, energy).diff().sqrt().sort(descending=True).values


def _knots(per_rank: float) -> list[float]:
    """Return the shares of parameters at which `ENERGY` is reached.

    They are adjusted so that the next whole rank is the one nearest to `KEPT`; `per_rank` is the share of one rank.
    """
    if per_rank > _COARSE:
        return list(_AIM)
    knots = []
    for aim, kept in zip(_AIM, KEPT, strict=True):
        nearest = round(kept / per_rank)
        knots.append(min(max(aim / per_rank - 0.5, nearest - 0.98), nearest - 0.02) * per_rank)
    return knots


def _concave(x: Tensor, knots: Tensor, values: Tensor) -> Tensor:
    """Evaluate Schumaker's quadratic spline (1983), which is concave for concave data and C1, at `x`."""
    mean = values.diff() / knots.diff()
    inner = (mean[:-1] * mean[1:]).sqrt()
    slope = torch.cat([mean[:1] ** 2 / inner[:1], inner, mean[-1:] ** 2 / inner[-1:]])
    first, last, width = slope[:-1], slope[1:], knots.diff()
    # One more knot per interval, at which the slope is the interval's mean: the slope is linear on either side.
    split = (mean - last) / (first - last)
    index = (torch.searchsorted(knots, x, right=True) - 1).clamp(0, len(mean) - 1)
    t, h = (x - knots[index]), split[index] * width[index]
    before, after = t.clamp(max=h), (t - h).clamp(min=0)
    rest = (width[index] - h).clamp(min=1e-12)
    start, centre, end = first[index], mean[index], last[index]
    rise = start * before + (centre - start) * before**2 / (2 * h)
    return values[index] + rise + centre * after + (end - centre) * after**2 / (2 * rest)


def _orthonormal(rows: int, columns: int, generator: torch.Generator) -> Tensor:
    return torch.linalg.qr(torch.randn(rows, columns, generator=generator)).Q
