"""Workspace and report of a sweep as objects of `wandb_workspaces`, and as the JSON that is sent to the server."""

import hashlib
import json
import re
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from wasi.dashboard.panels import sections, table_columns
from wasi.paths import text_without_absolute_paths
from wasi.tracking.names import ROW, TRAIN_STEP

_ABOUT = (
    "Made by `python -m wasi.dashboard`, which replaces it when it is called again. A row, a line and a bar are the "
    "mean over runs that differ by seed alone: one recipe, or one method with one choice of options, for one model on "
    "one data set. The row's name ends in a hash of all options that can change a result. Memory and time are "
    "measured over the whole model and the whole step; ratios to vanilla, intervals and tests are in the sweep's own "
    "report (`python -m wasi.report`), which `--report FILE` puts here."
)


def title_of(group: str | None) -> str:
    """Return the title of workspace and report; `group` is the sweep's name, None for all runs."""
    return f"WASI: {group}" if group else "WASI: all runs"


def workspace_slug(project: str, group: str | None) -> str:
    """Return the workspace's name in its URL, fixed for a sweep, so that a later call replaces the same workspace."""
    return hashlib.sha256(f"{project}\n{group or ''}".encode()).hexdigest()[:11]


def workspace_of(entity: str, project: str, group: str | None) -> ws.Workspace:
    """Return the workspace: the table of single runs, and all sections of panels."""
    made = ws.Workspace(
        entity=entity,
        project=project,
        name=title_of(group),
        sections=[ws.Section(name=section.title, panels=section.panels, is_open=True) for section in sections()],
        settings=ws.WorkspaceSettings(x_axis=TRAIN_STEP, max_runs=100),
        runset_settings=ws.RunsetSettings(filters=_filters(group), pinned_columns=table_columns()),
    )
    made._internal_name = f"nw-{workspace_slug(project, group)}-v"
    return made


def report_of(entity: str, project: str, group: str | None, own: str | None = None, checked: bool = True) -> wr.Report:
    """Return the report: a table of contents, an introduction and every section under its heading.

    Args:
        own: the text of the sweep's report.md, to be put first.
        checked: let `wandb_workspaces` look up the runs' project at the server, which needs a login.
    """
    blocks: list[Any] = [wr.TableOfContents(), wr.P(_ABOUT), *_own_report(own)]
    for section in sections():
        runs = wr.Runset(
            entity=entity if checked else "",
            project=project,
            name=group or "all runs",
            filters=_filters(group),
            groupby=[f"config.{ROW}"],
            pinned_columns=table_columns(),
        )
        blocks += [wr.H2(section.title), wr.P(section.about), wr.PanelGrid(runsets=[runs], panels=section.panels)]
    return wr.Report(project=project, entity=entity, title=title_of(group), blocks=blocks, width="fluid")


def specification(entity: str, project: str, group: str | None, own: str | None = None) -> dict[str, Any]:
    """Return `workspace` and `report` as dictionaries for JSON, as the server would get them; needs no login."""
    models = {
        "workspace": workspace_of(entity, project, group)._to_model(),
        "report": report_of(entity, project, group, own, checked=False)._to_model(),
    }
    return {name: json.loads(m.model_dump_json(by_alias=True, exclude_none=True)) for name, m in models.items()}


def _own_report(own: str | None) -> list[Any]:
    """Return blocks with the sweep's report.md, without its title and its figures, which are separate files."""
    if own is None:
        return []
    text = re.sub(r"^(# .*|!\[.*\]\(.*\))\n+", "", own, flags=re.MULTILINE)
    return [wr.H2("The sweep's own report"), wr.MarkdownBlock(text_without_absolute_paths(text))]


def _filters(group: str | None) -> str:
    return f"Metric('Group') = {group!r}" if group else ""
