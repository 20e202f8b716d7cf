"""Files that a method writes beside the result, for example the table of a rank search."""

from pathlib import Path

from wasi.runs.result import write_json


def write_artifacts(folder: Path, method: object) -> None:
    """Write each entry of the method's `artifacts`, if it has any, as a JSON file into `folder`."""
    for name, content in getattr(method, "artifacts", {}).items():
        write_json(folder / name, content)
