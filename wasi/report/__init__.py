"""Tables and figures from finished runs: `python -m wasi.report DIR [DIR ...]`."""

from pathlib import Path


def write_report(dirs: list[Path]) -> str:
    """Write report.html, report.md, report.csv, report_groups.csv and the figures into the first of `dirs`.

    Args:
        dirs: folders below which every `result.json` and `bench.json` is read.

    Returns:
        The table for the terminal, about 120 columns wide.

    Raises:
        UserError: a folder is missing or cannot be written, or no readable result lies below any of them.
    """
    from wasi.report.write import write

    return write([Path(folder) for folder in dirs])
