"""bench.csv: one line per job, numbers as they were measured."""

import csv
import io
import os
from pathlib import Path

from wasi.bench.jobs import BenchJob
from wasi.report.options import select

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


def bench_csv(jobs: list[BenchJob], base: Path) -> str:
    """Config, metrics, the baseline's metrics (`baseline/...`), ratios (`ratio/.../p50`, `low`, `high`)."""
    rows = [_row(job, base) for job in jobs]
    columns = list(dict.fromkeys(key for row in rows for key in row))
    out = io.StringIO()
    writer = csv.DictWriter(out, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def _row(job: BenchJob, base: Path) -> dict:
    environment = job.content["environment"]
    row = {"job": os.path.relpath(job.path.parent, base), "status": job.status, "error": job.content["error"]}
    row |= {key: select(job.config, key) for key in _CONFIG}
    row["baseline"] = select(job.config, "bench.baseline")
    row |= job.metrics
    row |= {
        f"baseline/{name}": value for name, value in (job.content["baseline"] or {}).get("metrics", {}).items()
    }
    for name, ratio in job.ratio.items():
        row |= {f"ratio/{name}/{bound}": value for bound, value in ratio.items()}
    row |= {f"machine/{key}": environment["machine"].get(key) for key in ("processor", "hostname")}
    return row | {"threads": environment.get("threads", {}).get("torch"), "start": environment.get("start")}
