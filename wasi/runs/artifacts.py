"""What a method leaves beside the result, for example the table of a rank search."""

from pathlib import Path

from wasi.runs.result import write_json


def write_artifacts(folder: Path, method: object) -> None:
    """One JSON file per entry of the method's `artifacts`, where it has any."""
    for name, content in getattr(method, "artifacts", {}).items():
        write_json(folder / name, content)
