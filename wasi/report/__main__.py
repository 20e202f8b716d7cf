"""`python -m wasi.report DIR [DIR ...] [--into DIR]`. Exit status 2: a folder is wrong or has no results."""

if __name__ == "__main__":  # before all other imports, which take a while
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import argparse

from wasi.report.write import write_report
from wasi.runs.command import run_cli
from wasi.runs.folder import path_of, sweep_of


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m wasi.report",
        description="Tables and figures from every result.json and bench.json below the given folders, and from "
        "the files of results/: prints the table and writes report.html, report.md, report.csv, report_groups.csv "
        "and, as PNG and SVG, accuracy_vs_cost_* (behind the experiment's name, where there is one).",
    )
    a_dir = "a folder of runs or of benchmarks, of one or many, or of files kept by wasi.results; or one such file"
    a_dir += "; or a sweep's name below multirun/"
    parser.add_argument("dirs", metavar="DIR", nargs="+", type=sweep_of("DIR"), help=a_dir)
    into = "the folder to write into (default: the first DIR; outputs/report/NAME where that holds kept files)"
    parser.add_argument("--into", metavar="DIR", type=path_of("--into"), help=into)
    given = parser.parse_args()
    print(write_report(given.dirs, given.into), flush=True)


if __name__ == "__main__":
    run_cli(main)
