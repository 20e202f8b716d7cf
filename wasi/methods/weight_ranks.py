"""Joint allocation of weight ranks under a total parameter budget (`rank.weight_allocation=sensitivity`)."""

import logging
from collections.abc import Iterable, Mapping

from torch import Tensor, nn

from wasi.config.validate import check_option
from wasi.errors import UserError
from wasi.linalg.allocation import allocate, largest_rank, rank_step
from wasi.linalg.rank import weight_rank
from wasi.methods.calibration import refusing_undecomposable
from wasi.methods.feature_init import FeatureMoments
from wasi.models.mapped import release_pages

log = logging.getLogger(__name__)

OPTION = "rank.weight_allocation"


def check_allocation(allocation: str, parameter_ratio: float | None) -> None:
    """Raise UserError for an unknown allocation and a `parameter_ratio` without `sensitivity` or outside (0, 1]."""
    if allocation not in ("epsilon", "sensitivity"):
        raise UserError(OPTION, allocation, "epsilon or sensitivity")
    if allocation == "epsilon" and parameter_ratio is not None:
        raise UserError("rank.parameter_ratio", parameter_ratio, f"null with {OPTION}=epsilon")
    check_option("rank.parameter_ratio", parameter_ratio)


def sensitivity_ranks(
    linears: Mapping[str, nn.Linear],
    moments: Mapping[int, FeatureMoments],
    epsilon: float,
    parameter_ratio: float | None,
) -> dict[int, int]:
    """Return the ranks, by the weight's id, that change the model's final features least under a parameter budget.

    No factors get larger than their dense weight. Allocated ranks of wide weights are multiples of 16, unless the
    budget is too small for that (`linalg.allocation.rank_step`). A weight without moments, which does not influence
    the features, is not part of the allocation: it keeps the same share of its parameters as all weights together.

    Args:
        moments: by the weight's id.
        epsilon: the budget is the number of parameters of factors whose ranks keep this share of each weight's
            squared singular values, each capped at the size of the dense weight.
        parameter_ratio: the budget as a share of the dense weights' parameters, in place of `epsilon`.

    Raises:
        UserError: the budget of `parameter_ratio` does not suffice for rank 1 of every weight, or a layer's moments
            are zero or not finite.
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
    if not seen:
        return ranks
    costs = [sum(weights[key][1].shape) for key in seen]
    errors = [_direction_losses(*weights[key], moments[key]) for key in seen]
    steps = [rank_step(len(error)) for error in errors]
    if sum(step * cost for step, cost in zip(steps, costs, strict=True)) > budget:
        steps = [1] * len(seen)
    return ranks | dict(zip(seen, allocate(errors, costs, max(budget, sum(costs)), steps), strict=True))


def log_ranks(factored: Iterable[tuple[int, int, int]]) -> None:
    """Log one line that summarises all factored weights, each given as (rank, out_features, in_features)."""
    ranks, sizes, dense = zip(*((k, k * (o + i), o * i) for k, o, i in factored), strict=True)
    log.info(
        "%d weights as factors of rank %d to %d: %d parameters, %.3f of the dense %d",
        len(ranks), min(ranks), max(ranks), sum(sizes), sum(sizes) / sum(dense), sum(dense),
    )


def _budget(weights: list[Tensor], dense: int, epsilon: float, parameter_ratio: float | None) -> int:
    """Return the total number of factor parameters, see `sensitivity_ranks`; `dense` is that of all dense weights."""
    if parameter_ratio is None:
        return sum(min(weight_rank(w, epsilon), largest_rank(*w.shape)) * sum(w.shape) for w in weights)
    least = sum(sum(weight.shape) for weight in weights)
    if parameter_ratio * dense < least:
        allowed = f"at least {least / dense:.2g}, which is rank 1 for every weight"
        raise UserError("rank.parameter_ratio", parameter_ratio, allowed)
    return int(parameter_ratio * dense)


def _direction_losses(name: str, weight: Tensor, moments: FeatureMoments) -> Tensor:
    """Return `FeatureMoments.direction_losses` of the directions that the factors of a weight may have."""
    with refusing_undecomposable(name):
        errors = moments.direction_losses()[: largest_rank(*weight.shape)].clone()
    release_pages([weight])
    return errors
