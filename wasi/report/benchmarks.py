"""Joins benchmarks to the runs of the same configuration: accuracy is the runs', times and memory the benchmark's."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from wasi.config.relevance import is_of_a_step
from wasi.report.groups import Group
from wasi.report.load import Run, machine_of
from wasi.report.options import result_options

_LEARNING_RATE = "optimizer.lr"


def decides_costs(key: str) -> bool:
    """Whether time, memory or FLOPs of a training step depend on an option, given by dotted key.

    A learning rate changes a step's result and none of these.

    >>> [decides_costs(key) for key in ("optimizer.momentum", "optimizer.lr", "scheduler.warmup_epochs")]
    [True, False, False]
    """
    return is_of_a_step(key) and key != _LEARNING_RATE


def step_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `result_options` for which `decides_costs` holds."""
    return {key: value for key, value in options.items() if decides_costs(key)}


def bench_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of `result_options` that can change what a benchmark measures: of a step, and of the device it runs on."""
    return {key: value for key, value in options.items() if key.startswith("device.") or is_of_a_step(key)}


def with_baselines(benchmarks: Iterable[Run]) -> list[Run]:
    """The benchmarks, and as runs of their own the baselines that they were measured beside, each once.

    A baseline that one of the benchmarks has measured for itself is left out.
    """
    own = list(benchmarks)
    known = {measured_key(run) for run in own}
    others = {measured_key(run.baseline): run.baseline for run in reversed(own) if run.baseline is not None}
    return own + [run for key, run in others.items() if key not in known]


def joined(trained: list[Group], benchmarked: list[Group]) -> list[Group]:
    """The trained groups, each with the benchmark of its training step, and then the benchmarks without such a group.

    A step costs the same under any schedule and at any learning rate, so without a benchmark under the group's own, one
    under others counts too; but where several learning rates were tried, only for the groups with most seeds, as a
    single run of a grid may be the best by luck. If benchmarks of several devices or machines fit, the group gets none,
    and they stand alone.
    """
    groups, taken = [], set()
    steps = [step_options(group.options) for group in trained]
    for group, step in zip(trained, steps, strict=True):
        alike = [other for other in benchmarked if step_options(other.options) == step and len(other.runs) == 1]
        fitting = [other for other in alike if _rates(other) == _rates(group)]
        most = max(len(other.runs) for other, its in zip(trained, steps, strict=True) if its == step)
        if not fitting and len(group.runs) == most:
            fitting = alike
        if len({measured_key(other.runs[0]) for other in fitting}) == 1:
            taken.add(fitting[0])
            group = replace(group, bench=fitting[0].runs[0])
        groups.append(group)
    alone = (group for group in benchmarked if group not in taken)
    return groups + [replace(group, bench=group.runs[0] if len(group.runs) == 1 else None) for group in alone]


def _rates(group: Group) -> dict[str, Any]:
    """The group's learning rate and its schedule."""
    return {key: value for key, value in group.options.items() if key.startswith((_LEARNING_RATE, "scheduler."))}


def measured_key(run: Run) -> str:
    """A text that is equal for two benchmarks of steps that cost the same, on machines of the same kind."""
    options = {key: value for key, value in bench_options(result_options(run.config)).items() if key != _LEARNING_RATE}
    return json.dumps([options, machine_of(run)], sort_keys=True)
