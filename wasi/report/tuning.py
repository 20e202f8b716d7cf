"""What tuned sweeps tried and chose, for the report."""

from pathlib import Path

from wasi.runs.tuning import FILE_NAME, METRIC, read_tuning


def tuning_lines(dirs: list[Path]) -> list[str]:
    """Per row what was chosen, a loud line for a choice on its grid's edge, and the accuracy at every point."""
    lines = []
    for path in sorted({path for folder in dirs for path in folder.rglob(FILE_NAME)}):
        for row in (read_tuning(path.parent) or {}).get("rows", ()):
            lines += [*row["told"], f"tried: {'; '.join(map(_point, row['points']))}"]
    return lines


def _point(point: dict) -> str:
    values = ", ".join(f"{key}={value}" for key, value in point["values"].items())
    return f"{values}: {point[METRIC]:.4f}" if METRIC in point else f"{values}: {point['status']}"
