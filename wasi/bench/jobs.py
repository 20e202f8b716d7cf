"""The benchmark jobs of a sweep, as the table, the CSV file and the figure want them."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasi.bench.measure_job import FILE_NAME
from wasi.config.relevance import relevant
from wasi.methods.declared import place
from wasi.report.groups import short_names
from wasi.report.options import (
    NAMED,
    dataset_label,
    epsilon_label,
    flat,
    model_label,
    select,
    show,
    show_option,
    weight_epsilon,
)
from wasi.runs.result import read_result

_NOT_OF_A_STEP = ("scheduler.", "train.epochs")


@dataclass(frozen=True)
class BenchJob:
    """One bench.json. `options`: flat configuration, of what may differ between two jobs of one model."""

    path: Path
    content: dict
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def config(self) -> dict:
        return self.content["config"]

    @property
    def metrics(self) -> dict[str, float]:
        return self.content["metrics"]

    @property
    def ratio(self) -> dict[str, dict[str, float]]:
        return self.content["ratio"]

    @property
    def status(self) -> str:
        return self.content["status"]

    @property
    def method(self) -> str:
        return str(select(self.config, "method.name"))

    @property
    def block(self) -> tuple[str, str, str]:
        """What a table and a figure have in common: model, data, batch size."""
        return (
            model_label(self.config),
            dataset_label(self.config),
            show(select(self.config, "dataset.batch_size")),
        )


def read_jobs(folder: Path) -> list[BenchJob]:
    """All jobs below `folder`: blocks together, within one method by method, thresholds ascending."""
    found = []
    for path in sorted(folder.rglob(FILE_NAME)):
        content = read_result(path.parent, FILE_NAME)
        if content is not None:
            found.append(BenchJob(path, content, _options(content["config"])))
    blocks = list(dict.fromkeys(job.block for job in found))
    return sorted(found, key=lambda job: (blocks.index(job.block), *_place(job)))


def labels(jobs: list[BenchJob]) -> list[str]:
    """A name per job of one block: its recipe, or method, thresholds, and the options in which jobs differ."""
    recipes = [job.config.get("recipe") for job in jobs]
    if all(recipes) and len(set(recipes)) == len(recipes):
        return [str(recipe) for recipe in recipes]
    return [_joined(job.method, epsilon_label(job.config), *shown) for job, shown in _with_differences(jobs)]


def series_names(jobs: list[BenchJob]) -> list[str]:
    """As `labels`, without the thresholds: equal for jobs that belong on one line of a figure."""
    return [_joined(job.method, *shown) for job, shown in _with_differences(jobs)]


def _with_differences(jobs: list[BenchJob]) -> list[tuple[BenchJob, list[str]]]:
    names = short_names(_differing(jobs))
    return [(job, _shown(job, names)) for job in jobs]


def _joined(*parts: str | None) -> str:
    return " ".join(part for part in parts if part)


def _options(config: dict) -> dict[str, Any]:
    options = {k: v for k, v in flat(relevant(config)).items() if not k.startswith(_NOT_OF_A_STEP)}
    return {k: v for k, v in options.items() if k not in NAMED or k == "method.scope"}


def _place(job: BenchJob) -> tuple:
    return *place(job.method), weight_epsilon(job.config) or 0.0, epsilon_label(job.config) or "", str(job.path)


def _differing(jobs: list[BenchJob]) -> list[str]:
    """Keys with more than one value; a method's own options are compared within the method."""
    values: dict[str, dict[str, set[str]]] = {}
    for job in jobs:
        for key, value in job.options.items():
            own = key.startswith("method.") and key != "method.scope"
            values.setdefault(key, {}).setdefault(job.method if own else "", set()).add(json.dumps(value))
    return [key for key, families in values.items() if any(len(different) > 1 for different in families.values())]


def _shown(job: BenchJob, names: dict[str, str]) -> list[str]:
    """`NAME=VALUE` for every option of the job that `names` (dotted key -> name) has a name for."""
    return [f"{name}={show_option(key, job.options[key])}" for key, name in names.items() if key in job.options]
