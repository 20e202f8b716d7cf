"""Tables and figures from finished runs: `python -m wasi.report DIR [DIR ...] [--into DIR]`."""

from pathlib import Path


def write_report(dirs: list[Path], into: Path | None = None) -> str:
    """Write report.html, report.md, report.csv, report_groups.csv and the figures into a folder.

    Args:
        dirs: folders below which every `result.json`, `bench.json` and kept result (`wasi.results`) is read, or
            single such files.
        into: the folder. By default it is the first of `dirs`, or `outputs/report/NAME` if that one is a folder NAME of
            kept results.

    Returns:
        The text for the terminal, about 120 characters wide.

    Raises:
        UserError: a folder is missing or cannot be written, or no readable result lies below any of them.
    """
    from wasi.report.write import write

    return write([Path(folder) for folder in dirs], into)
