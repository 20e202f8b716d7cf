"""Ranks that share out a total number of parameters (`rank.weight_allocation=sensitivity`)."""

import logging
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from wasi.errors import UserError
from wasi.linalg.allocation import allocate, largest_rank, rank_step
from wasi.linalg.rank import weight_rank
from wasi.methods.calibration import decomposing
from wasi.methods.feature_init import FeatureMoments
from wasi.models.mapped import let_go

log = logging.getLogger(__name__)

OPTION = "rank.weight_allocation"


def check_allocation(allocation: str, parameter_ratio: float | None) -> None:
    """Raises UserError for an unknown allocation, and for a budget that nothing would share out."""
    if allocation not in ("epsilon", "sensitivity"):
        raise UserError(OPTION, allocation, "epsilon or sensitivity")
    if allocation == "epsilon" and parameter_ratio is not None:
        raise UserError("rank.parameter_ratio", parameter_ratio, f"null with {OPTION}=epsilon")


def sensitivity_ranks(
    linears: Mapping[str, nn.Linear],
    moments: Mapping[int, FeatureMoments],
    epsilon: float,
    parameter_ratio: float | None,
) -> dict[int, int]:
    """The rank of each weight, by its id, that together move the model's final features least.

    No factors get larger than their dense weight; ranks of wide weights are multiples of 16, unless the budget is
    too small for that (`linalg.allocation.rank_step`). A weight without moments, of which the features tell nothing,
    keeps the same share of its parameters as all weights together.

    Args:
        moments: by the weight's id.
        epsilon: the factors have as many parameters as those whose ranks keep this share of each weight's squared
            singular values, or
        parameter_ratio: this share of the dense weights' parameters, where it is given.

    Raises:
        UserError: `parameter_ratio` is below rank 1 for every weight, or a layer's moments are zero or not finite.
    """
    weights = {id(linear.weight): (name, linear.weight) for name, linear in linears.items()}
    dense = sum(weight.numel() for _, weight in weights.values())
    budget = _budget([weight for _, weight in weights.values()], dense, epsilon, parameter_ratio)
    ranks = {
        key: max(1, int(budget / dense * largest_rank(*weight.shape)))
        for key, (_, weight) in weights.items()
        if key not in moments
    }
    budget -= sum(rank * sum(weights[key][1].shape) for key, rank in ranks.items())
    seen = [key for key in weights if key in moments]
    costs = [sum(weights[key][1].shape) for key in seen]
    damages = [_damages(*weights[key], moments[key]) for key in seen]
    steps = [rank_step(len(damage)) for damage in damages]
    if sum(step * cost for step, cost in zip(steps, costs, strict=True)) > budget:
        steps = [1] * len(seen)
    return ranks | dict(zip(seen, allocate(damages, costs, max(budget, sum(costs)), steps), strict=True))


def log_ranks(factored: Iterable[tuple[int, int, int]]) -> None:
    """Log one line about all weights, given as (rank, out_features, in_features) each."""
    ranks, sizes, dense = zip(*((k, k * (o + i), o * i) for k, o, i in factored), strict=True)
    log.info(
        "%d weights as factors of rank %d to %d: %d parameters, %.3f of the dense %d",
        len(ranks), min(ranks), max(ranks), sum(sizes), sum(sizes) / sum(dense), sum(dense),
    )


def _budget(weights: list[Tensor], dense: int, epsilon: float, parameter_ratio: float | None) -> int:
    if parameter_ratio is None:
        return sum(min(weight_rank(w, epsilon), largest_rank(*w.shape)) * sum(w.shape) for w in weights)
    least = sum(sum(weight.shape) for weight in weights)
    if parameter_ratio * dense < least:
        allowed = f"at least {least / dense:.2g}, which is rank 1 for every weight"
        raise UserError("rank.parameter_ratio", parameter_ratio, allowed)
    return int(parameter_ratio * dense)


def _damages(name: str, weight: Tensor, moments: FeatureMoments) -> Tensor:
    with decomposing(name):
        damages = moments.damages()[: largest_rank(*weight.shape)].clone()
    let_go([weight])
    return damages
