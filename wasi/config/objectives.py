"""Metrics of `result.json` that a search may optimise, and which of them are maximised."""

from collections.abc import Mapping, Sequence
from typing import Any

from wasi.pareto import on_front

DEFAULT = "val/acc"
_GROWS = ("val/acc", "val/balanced_acc", "val/acc_top5", "val/best_acc")
_SHRINKS = ("val/loss", "train/loss")
_MEASURED = (
    "memory/train_peak_mib",
    "memory/train_rss_peak_mib",
    "memory/process_rss_peak_mib",
    "memory/stored_inputs_mib",
    "memory/inference_peak_mib",
    "memory/paper_train_mib",
    "flops/train_step",
    "flops/inference",
    "time/train_step_ms_p50",
    "time/inference_ms_p50",
    "model/parameters",
    "model/trainable_parameters",
)
OF_A_PROCESS = ("memory/train_rss_peak_mib", "memory/process_rss_peak_mib")
"""Metrics that every run of a sweep has with `train.measure=full` alone, which starts a process for each."""
ALLOWED = (*_GROWS, *_SHRINKS, *_MEASURED)
"""Nothing of the test split: a choice must not see it."""

Values = tuple[float, ...]


def direction(objective: str) -> str:
    """Return the direction of an objective, as Optuna names it.

    >>> direction("val/acc"), direction("memory/train_peak_mib")
    ('maximize', 'minimize')
    """
    return "maximize" if objective in _GROWS else "minimize"


def is_measured(objective: str) -> bool:
    """Return whether the metric needs `train.measure=fast` or `full`."""
    return objective in _MEASURED


def values_of(result: Mapping[str, Any], objectives: Sequence[str]) -> Values | None:
    """Return the objectives' values in their order; None if one is absent from `result`, the content of result.json.

    None also with `dataset.val_source=test`, where validation is on test images, which no choice may see.
    """
    metrics = result.get("metrics", {})
    if result.get("config", {}).get("dataset", {}).get("val_source") == "test":
        return None
    if any(objective not in metrics for objective in objectives):
        return None
    return tuple(metrics[objective] for objective in objectives)


def non_dominated(points: Sequence[Values | None], objectives: Sequence[str]) -> list[int]:
    """Return the indices of the points that no other point dominates, the best in the first objective first.

    For a single objective that is one point, for several their Pareto front. Of equal points only the earliest counts,
    and points that are None are skipped.

    >>> non_dominated([(0.8, 9.0), (0.9, 10.0), None, (0.7, 9.5)], ["val/acc", "memory/train_peak_mib"])
    [1, 0]
    """
    signs = [1 if direction(objective) == "maximize" else -1 for objective in objectives]
    larger_is_better = [
        None if point is None else tuple(sign * value for sign, value in zip(signs, point, strict=True))
        for point in points
    ]
    front: dict[Values, int] = {}
    for index, (point, marked) in enumerate(zip(larger_is_better, on_front(larger_is_better), strict=True)):
        if point is not None and marked:
            front.setdefault(point, index)
    return [front[point] for point in sorted(front, reverse=True)]
