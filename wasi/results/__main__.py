"""`python -m wasi.results collect SWEEP [SWEEP ...] --into FOLDER` and `python -m wasi.results tables [--check]`.

The exit status is 2 if the results make no table or if there is nothing to collect, and 1 if a document is stale
(`--check`).
"""

if __name__ == "__main__":  # before all other imports, which take a while
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import argparse
from pathlib import Path

from wasi.errors import UserError
from wasi.report.kept import kept_files
from wasi.results.collect import collect
from wasi.results.documents import stale_documents, update
from wasi.runs.command import run_cli
from wasi.runs.ending import print_error
from wasi.runs.folder import path_of, sweep_of

ROOT = Path(__file__).resolve().parents[2]


def main() -> int:
    arguments = _parser().parse_args()
    return arguments.act(arguments)


def _collect(arguments: argparse.Namespace) -> int:
    for line in collect(arguments.sweeps, arguments.into, arguments.row):
        print(line)
    print(f"{sum(1 for _ in kept_files(arguments.into))} results in {arguments.into}")
    return 0


def _tables(arguments: argparse.Namespace) -> int:
    root = arguments.root
    if not (root / "results").is_dir():
        raise UserError("--root", root, "a checkout, with results/, README.md and docs/")
    if not arguments.check:
        written = [str(path.relative_to(root)) for path in update(root)]
        print(f"written: {', '.join(written)}" if written else "every table is as results/ says")
        return 0
    stale = [str(path.relative_to(root)) for path in stale_documents(root)]
    if stale:
        print_error(f"tables of {', '.join(stale)} are not what results/ says: make tables")
    return 1 if stale else 0


def _parser() -> argparse.ArgumentParser:
    about = "Keep raw results in results/, and make the documents' tables from them."
    parser = argparse.ArgumentParser(prog="python -m wasi.results", description=about)
    commands = parser.add_subparsers(required=True, metavar="collect | tables")
    gather = commands.add_parser("collect", help="keep the completed jobs of finished sweeps as small JSON files")
    a_sweep = "a sweep's folder, or its name below multirun/"
    gather.add_argument("sweeps", metavar="SWEEP", nargs="+", type=sweep_of("SWEEP"), help=a_sweep)
    into = "its files are replaced"
    gather.add_argument("--into", metavar="FOLDER", required=True, type=path_of("--into"), help=into)
    add = "the row's name for all of these jobs, which are added to the folder (default: the recipe's name)"
    gather.add_argument("--row", metavar="NAME", help=add)
    gather.set_defaults(act=_collect)
    tables = commands.add_parser("tables", help="write the tables of README.md and docs/*.md anew from results/")
    tables.add_argument("--check", action="store_true", help="write nothing; exit status 1 when one is stale")
    root = "the folder of README.md, docs/ and results/"
    tables.add_argument("--root", type=path_of("--root"), default=ROOT, help=root)
    tables.set_defaults(act=_tables)
    return parser


if __name__ == "__main__":
    run_cli(main)
