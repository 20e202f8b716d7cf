"""What a sweep of benchmark jobs leaves beside them: bench.csv, a figure per model, and the table as text."""

import re
from pathlib import Path

from wasi.atomic import atomic_write_bytes, atomic_write_text
from wasi.bench.csv_file import bench_csv
from wasi.bench.jobs import BenchJob, read_jobs
from wasi.bench.table import text
from wasi.report.write import printable

CSV_NAME = "bench.csv"


def write_report(folder: Path) -> str:
    """Write them into `folder`; the table, and where the files are."""
    jobs = read_jobs(folder)
    atomic_write_text(folder / CSV_NAME, bench_csv(jobs, folder))
    names = [CSV_NAME, *_figures(jobs, folder)]
    return printable(f"{text(jobs)}\n\nwritten to {folder}: {', '.join(names)}")


def _figures(jobs: list[BenchJob], folder: Path) -> list[str]:
    from wasi.bench.figure import draw

    names = []
    for block in dict.fromkeys(job.block for job in jobs):
        image = draw([job for job in jobs if job.block == block])
        if image is not None:
            names.append(f"time_vs_epsilon_{re.sub(r'[^A-Za-z0-9.-]+', '_', '_'.join(block)).strip('_')}.png")
            atomic_write_bytes(folder / names[-1], image)
    return names
