"""What tuned sweeps tried and chose, for the report."""

from pathlib import Path

from wasi import file_names
from wasi.runs.folder import files_below
from wasi.runs.tuning_file import read_tuning

EDGE = "(on the edge)"


def tuned_value(job: Path) -> str | None:
    """What tuning chose for a sweep's job, as `lr=0.01`, with a remark at each value at an end of its grid.

    None for a job that tuning did not choose.
    """
    for row in (read_tuning(job.parent) or {}).get("rows", ()):
        tried = (point["values"] for point in row["points"] if point["job"] == job.name)
        values = next((values for values in tried if values in row["choices"]), None)
        if values is not None:
            on_edge = row["edges"][row["choices"].index(values)]
            return ", ".join(_value(key, value, key in on_edge) for key, value in values.items())
    return None


def _value(key: str, value: object, on_edge: bool) -> str:
    text = f"{key.removeprefix('optimizer.')}={value}"
    return f"{text} {EDGE}" if on_edge else text


def tuning_lines(dirs: list[Path]) -> list[str]:
    """For each row lines with what was chosen, a warning if that is at an end of its grid, and what each point gave."""
    lines = []
    for path in sorted({path for folder in dirs for path in files_below(folder, file_names.TUNING)}):
        for row in (read_tuning(path.parent) or {}).get("rows", ()):
            objectives = row["objectives"]
            lines += [
                *row["told"],
                f"tried ({', '.join(objectives)}): {'; '.join(_point(point, objectives) for point in row['points'])}",
            ]
    return lines


def _point(point: dict, objectives: list[str]) -> str:
    values = ", ".join(f"{key}={value}" for key, value in point["values"].items())
    found = [f"{point[name]:.4f}" for name in objectives if name in point]
    return f"{values}: {', '.join(found) or point['status']}"
