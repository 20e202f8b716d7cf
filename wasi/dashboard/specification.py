"""Workspace and report of a sweep as objects of `wandb_workspaces`, and what of them goes to the server, as JSON."""

import hashlib
import json
import re
from typing import Any

import wandb_workspaces.reports.v2 as wr
import wandb_workspaces.workspaces as ws

from wasi.dashboard.panels import sections, table_columns
from wasi.tracking.names import ROW, TRAIN_STEP
from wasi.tracking.paths import text_without_absolute_paths

_ABOUT = (
    "Made by `python -m wasi.dashboard`, which replaces it when it is called again. A row, a line and a bar are the "
    "mean over runs that differ by seed alone: one recipe, or one method with one choice of options, for one model on "
    "one data set. The row's name ends in a hash of all options that can change a result. Memory and time are "
    "measured over the whole model and the whole step; ratios to vanilla, intervals and tests are in the sweep's own "
    "report (`python -m wasi.report`), which `--report FILE` puts here."
)


def title_of(group: str | None) -> str:
    return f"WASI: {group}" if group else "WASI: all runs"


def workspace_slug(project: str, group: str | None) -> str:
    """The name in the workspace's address: the same for the same sweep, so that a second call finds the first's."""
    return hashlib.sha256(f"{project}\n{group or ''}".encode()).hexdigest()[:11]


def workspace_of(entity: str, project: str, group: str | None) -> ws.Workspace:
    """All sections below the table, in which runs stand one by one."""
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
    """Each section under its heading.

    Args:
        own: the text of the sweep's own report.md, which then stands first.
        checked: let `wandb_workspaces` ask the server for the runs' project, which needs a login.
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
    """What `--dry-run` writes: `workspace` and `report` as the server would get them. Needs no login."""
    models = {
        "workspace": workspace_of(entity, project, group)._to_model(),
        "report": report_of(entity, project, group, own, checked=False)._to_model(),
    }
    return {name: json.loads(m.model_dump_json(by_alias=True, exclude_none=True)) for name, m in models.items()}


def _own_report(own: str | None) -> list[Any]:
    """Without its title, and without its figures, which are files beside it."""
    if own is None:
        return []
    text = re.sub(r"^(# .*|!\[.*\]\(.*\))\n+", "", own, flags=re.MULTILINE)
    return [wr.H2("The sweep's own report"), wr.MarkdownBlock(text_without_absolute_paths(text))]


def _filters(group: str | None) -> str:
    return f"Metric('Group') = {group!r}" if group else ""
