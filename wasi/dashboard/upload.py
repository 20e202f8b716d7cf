"""Creating a workspace and a report on the W&B server, or replacing those of an earlier call."""

from contextlib import suppress
from typing import Any

import wandb
import wandb_workspaces.workspaces as ws

from wasi.dashboard.specification import report_of, title_of, workspace_of
from wasi.errors import UserError, first_line
from wasi.tracking.wandb_tracker import check_environment, reach

_NO_LOGIN = "not logged in to W&B: run `wandb login`, or see what would be sent with --dry-run"


def upload(entity: str | None, project: str, group: str | None, own: str | None = None) -> list[str]:
    """Create or replace the workspace and the report; returns their URLs.

    Args:
        entity: W&B user or team; None: the default one of the login.
        group: the sweep's name; None: all runs of the project.
        own: the text of the sweep's report.md.

    Raises:
        UserError: there is no login, no connection to the server or no such project, or W&B refuses a variable WANDB_…
    """
    check_environment()
    try:
        if not wandb.login(prompt=False, verify=False):  # raises for a text that cannot be a key
            raise UserError("--project", project, "a project of a user who is logged in", _NO_LOGIN)
        reach(wandb.setup().settings.base_url)
        api = wandb.Api(timeout=15)
        entity = entity or api.default_entity
        if entity is None:
            raise UserError("--entity", None, "a user or team, as this login has no default one")
        return [_workspace(entity, project, group), _report(api, entity, project, group, own)]
    except (wandb.Error, ValueError, OSError) as error:
        given = f"{entity}/{project}" if entity else project
        allowed = f"a project that W&B knows, with its server in reach: {first_line(error)}"
        raise UserError("--project", given, allowed) from error


def _workspace(entity: str, project: str, group: str | None) -> str:
    made = workspace_of(entity, project, group)
    with suppress(ValueError):  # there is no such workspace yet
        made._internal_id = ws.Workspace.from_url(made.url)._internal_id
    return made.save().url


def _report(api: Any, entity: str, project: str, group: str | None, own: str | None) -> str:
    made = report_of(entity, project, group, own)
    before = [report for report in api.reports(f"{entity}/{project}") if report.display_name == title_of(group)]
    if before:
        made.id = before[0].id
    return made.save().url
