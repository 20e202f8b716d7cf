"""The report of a benchmark sweep: bench.csv, a figure per block, report.html and text tables."""

from pathlib import Path
from typing import Any

from wasi import file_names
from wasi.atomic import atomic_write_text
from wasi.bench.bench_table import text
from wasi.bench.jobs import by_block, read_jobs
from wasi.config.files import select
from wasi.report.csv_files import csv_text, relative
from wasi.report.gathered import gather
from wasi.report.load import Run
from wasi.report.origins import experiment_of
from wasi.report.write import file_part, write_images, write_page
from wasi.runs.ending import printable

_CONFIG = (
    "model.name",
    "model.weights",
    "dataset.name",
    "dataset.batch_size",
    "method.name",
    "method.scope",
    "method.weight_epsilon",
    "method.activations.epsilon",
    "method.activations.ranks",
    "train.memory",
    "train.gradient_checkpointing",
    "train.micro_batch_size",
    "seed",
)


def write_report(folder: Path) -> str:
    """Write the report's files into `folder`, which holds the jobs; returns the text tables and the files' names."""
    jobs = read_jobs(folder)
    atomic_write_text(folder / file_names.BENCH_TABLE, bench_csv(jobs, folder))
    names = [file_names.BENCH_TABLE, *_figures(jobs, folder), *([write_page(gather([folder]))] if jobs else [])]
    return printable(f"{text(jobs)}\n\nwritten to {folder}: {', '.join(names)}")


def bench_csv(jobs: list[Run], base: Path) -> str:
    """Return a CSV line per job: configuration, metrics, `baseline/NAME` and `ratio/NAME/p50`, `low` and `high`.

    Args:
        base: the folder that the jobs' folders are written relative to.
    """
    return csv_text([_row(job, base) for job in jobs])


def _row(job: Run, base: Path) -> dict[str, Any]:
    row: dict[str, Any] = {"job": relative(job.path.parent, base), "status": job.status, "error": job.error}
    row |= {key: select(job.config, key) for key in _CONFIG}
    row |= {"baseline": select(job.config, "bench.baseline"), **job.metrics}
    if job.baseline is not None:
        row |= {f"baseline/{name}": value for name, value in job.baseline.metrics.items()}
    for name, ratio in job.ratio.items():
        row |= {f"ratio/{name}/{bound}": value for bound, value in ratio.items()}
    row |= {f"machine/{key}": select(job.provenance, f"machine.{key}") for key in ("processor", "hostname")}
    return row | {"threads": select(job.provenance, "threads.torch"), "start": job.provenance.get("start")}


def _figures(jobs: list[Run], folder: Path) -> list[str]:
    from wasi.bench.time_figure import draw

    names = []
    for (model, dataset, batch), members in by_block(jobs).items():
        experiment = list(filter(None, [experiment_of(members)]))
        images = draw(members, ": ".join([*experiment, f"{model} on {dataset}, batch {batch}"]))
        labels = [*experiment, "time_vs_epsilon", model, dataset, batch]
        names += write_images(images, "_".join(map(file_part, labels)), folder)
    return names
