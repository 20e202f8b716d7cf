"""What a sweep of benchmark jobs leaves beside them: bench.csv, a figure per model, report.html, and text."""

from pathlib import Path

from wasi.atomic import atomic_write_text
from wasi.bench.bench_table import text
from wasi.bench.csv_file import bench_csv
from wasi.bench.jobs import BenchJob, read_jobs
from wasi.report.origins import experiment_in
from wasi.report.write import file_part, gather, printable, write_images, write_page

CSV_NAME = "bench.csv"


def write_report(folder: Path) -> str:
    """Write them into `folder`; the table, and where the files are."""
    jobs = read_jobs(folder)
    atomic_write_text(folder / CSV_NAME, bench_csv(jobs, folder))
    names = [CSV_NAME, *_figures(jobs, folder), *([write_page(gather([folder]))] if jobs else [])]
    return printable(f"{text(jobs)}\n\nwritten to {folder}: {', '.join(names)}")


def _figures(jobs: list[BenchJob], folder: Path) -> list[str]:
    from wasi.bench.time_figure import draw

    names = []
    for block in dict.fromkeys(job.block for job in jobs):
        members = [job for job in jobs if job.block == block]
        experiment = experiment_in([job.content["environment"] for job in members])
        images = draw(members, experiment or "")
        parts = [*filter(None, [experiment]), "time_vs_epsilon", *map(file_part, block)]
        names += write_images(images, "_".join(parts), folder)
    return names
