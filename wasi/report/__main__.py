"""`python -m wasi.report DIR [DIR ...]`. Exit status 2 when there is nothing to report or a folder is wrong."""

import argparse
import sys
from pathlib import Path

from wasi.errors import UserError
from wasi.report import write_report
from wasi.runs.command import command
from wasi.runs.ending import one_line, print_error


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m wasi.report",
        description="Tables and figures from every result.json and bench.json below the given folders: prints the "
        "table and writes report.html, report.md, report.csv, report_groups.csv and, as PNG and SVG, "
        "accuracy_vs_cost_* (behind the experiment's name, where there is one) into the first of them.",
    )
    parser.add_argument("dirs", metavar="DIR", nargs="+", type=Path, help="a sweep's or a run's folder")
    try:
        print(write_report(parser.parse_args().dirs), flush=True)
    except UserError as error:
        print_error(one_line(str(error)))
        sys.exit(2)


if __name__ == "__main__":
    command(main)
