"""The command `python -m wasi.dashboard --project PROJECT [--entity NAME] [--group SWEEP] [--dry-run [FILE]]`."""

if __name__ == "__main__":  # before all other imports, which take a while
    from wasi.process_exit import quiet_while_importing

    quiet_while_importing()

import argparse
import json
import os
from pathlib import Path

from wasi.atomic import atomic_write_text
from wasi.config.validate import OPTIONS
from wasi.errors import UserError
from wasi.optional import optional
from wasi.output_file import check_output_file
from wasi.runs.command import run_cli
from wasi.runs.folder import path_of

_REQUIREMENTS = "requirements-dashboard.txt"
_ONLINE = ("online", "shared", "run")  # values of WANDB_MODE that reach the server; `run` is an old name of `online`


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m wasi.dashboard",
        description="Creates a W&B workspace and a W&B report with the tables and panels of the project's own report, "
        "or replaces those of an earlier call.",
    )
    parser.add_argument("--project", default="wasi", help="W&B project of the runs, logger.project (wasi)")
    parser.add_argument("--entity", help="W&B user or team (your default one)")
    parser.add_argument("--group", metavar="SWEEP", help="the sweep's name, its W&B group (all runs of the project)")
    parser.add_argument(
        "--report",
        metavar="FILE",
        type=path_of("--report"),
        help="report.md of the sweep's folder: its tables with differences, ratios and intervals stand first in W&B's "
        "report (left out)",
    )
    parser.add_argument(
        "--dry-run",
        metavar="FILE",
        nargs="?",
        type=path_of("--dry-run"),
        const=Path("dashboard.json"),
        help="write the specification of both to FILE (dashboard.json) and send nothing; needs no login",
    )
    given = parser.parse_args()
    is_allowed, allowed = OPTIONS["logger.project"]
    if not is_allowed(given.project):
        raise UserError("--project", given.project, allowed)
    own = _text_of(given.report) if given.report else None
    os.environ.setdefault("WANDB_SILENT", "true")
    optional("wandb_workspaces", "--project", given.project, _REQUIREMENTS)
    if given.dry_run:
        check_output_file("--dry-run", given.dry_run)
        from wasi.dashboard.specification import specification

        entity = given.entity or os.environ.get("WANDB_ENTITY", "")
        text = json.dumps(specification(entity, given.project, given.group, own), indent=2)
        atomic_write_text(given.dry_run, text + "\n")
        print(f"written to {given.dry_run}")
        return
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in _ONLINE:
        raise UserError("WANDB_MODE", mode, "online, as both are made at W&B's server; --dry-run needs none")
    from wasi.dashboard.upload import upload

    for address in upload(given.entity, given.project, given.group, own):
        print(address)


def _text_of(report: Path) -> str:
    """Return the text of the file given with `--report`.

    Raises:
        UserError: there is no such file, or it cannot be read as text.
    """
    try:
        return report.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not text in UTF-8"
        raise UserError("--report", report, f"the report.md of a sweep's folder ({reason})") from error


if __name__ == "__main__":
    run_cli(main)
