"""Hydra's plugin `hydra/sweeper=tuned`: a sweep's rows are tuned on validation before their other seeds are run.

Hydra looks for plugins in the modules of this namespace only, and imports them all at every start.
"""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.core.utils import JobReturn
from omegaconf import DictConfig, OmegaConf

from wasi import file_names
from wasi.config.declared import worth_tuning
from wasi.config.files import plain
from wasi.config.validate import validate
from wasi.data.catalogue import looking_once
from wasi.errors import UserError
from wasi.runs.ending import print_error
from wasi.runs.fail_fast import note_results_before
from wasi.runs.folder import make_folder
from wasi.runs.inputs import check_files
from wasi.runs.lock import folder_lock
from wasi.runs.plan import folders_of, write_jobs
from wasi.runs.search import Axes
from wasi.runs.tuned_row import TunedRow, Undecided, tuned
from wasi.runs.tuning import Plan, Row, grid_of, rates_asked
from wasi.runs.tuning_file import Choice, write_tuning


class TunedSweeper(BasicSweeper):
    """The basic sweeper in two stages: each row's grid with one seed, then every seed at the best point.

    One process at a time has the sweep's folder: a choice, and a search's next trial, depend on everything tried.
    """

    def sweep(self, arguments: list[str]) -> Any:
        folder = Path(self.config.hydra.sweep.dir)
        try:
            with looking_once():
                plan = self._plan(arguments)
            make_folder("hydra.sweep.dir", str(folder))  # not before: a sweep that is refused leaves nothing behind
            with folder_lock(folder) as alone:
                if not alone:
                    raise Undecided(f"another process is at work in {folder}, and tuning is one process's at a time")
                return self._sweep(plan, folder)
        except (UserError, Undecided) as error:
            print_error(str(error))
            sys.exit(2)

    def _sweep(self, plan: Plan, folder: Path) -> list[Sequence[JobReturn]]:
        OmegaConf.save(self.config, folder / file_names.MULTIRUN)
        note_results_before(self.config.hydra)
        self._launched = 0
        write_jobs(folder, plan.most_jobs(self._trials, len(self._objectives)))
        rows = self._first_stage(plan, folder)
        choices = self._keep(plan, rows, folder)
        names = dict.fromkeys(job for stage in (*rows, *choices) for job in stage.jobs)
        write_jobs(folder, len(names), list(names))
        for row in rows:
            print(*row.lines(), sep="\n", flush=True)
        return [self._launch(plan.second_stage({row.row.name: row.choices for row in rows}))]

    def _keep(self, plan: Plan, rows: Sequence[TunedRow], folder: Path) -> list[Choice]:
        """Write down what was chosen for `rows`, and all jobs that are to be run at it, before they are; return it."""
        points = plan.points({row.row.name: row.choices for row in rows})
        choices = [
            Choice(row.overrides, point, folders_of(self.config, [row.words(point, seed) for seed in plan.seeds]))
            for row, point in points
        ]
        write_tuning(folder, plan.seeds[0], rows, self._objectives, choices)
        return choices

    @property
    def _trials(self) -> int:
        """How many points are tried for a row that is not tuned by its grid."""
        return 0

    @property
    def _objectives(self) -> list[str]:
        return list(self.config.tune.objectives)

    def _first_stage(self, plan: Plan, folder: Path) -> list[TunedRow]:
        return tuned(plan, self._launch(plan.first_stage()), self._objectives)

    def _plan(self, arguments: list[str]) -> Plan:
        """The rows of the sweep with what is to be tried for each.

        Raises:
            UserError: a grid is no list of allowed values.
        """
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        return self._planned(parser.parse_overrides([*self._parse_config(), *arguments]))

    def _planned(self, overrides: list[Override]) -> Plan:
        (jobs,) = self.split_arguments(overrides, None)
        self.validate_batch_is_legal(jobs)  # what cannot be composed is refused before anything is composed for
        return Plan.of(jobs, lambda row: replace(row, grid=grid_of(self._tune_of(row), row.overrides)))

    def _tune_of(self, row: Row, searched: Axes = MappingProxyType({})) -> DictConfig:
        """What the row's own configuration asks for: a recipe may bring it; and what its method declares.

        Args:
            searched: options that the command line gives a search to decide.

        Raises:
            UserError: `tune` is no grid of allowed values, or would be decided on test images, or the row's weights or
                images are not there.
        """
        loader = self.hydra_context.config_loader
        config = loader.load_sweep_config(self.config, row.words())
        check_files(config)
        validate(OmegaConf.create({"tune": config.tune, "train": {"measure": config.train.measure}}))
        tune = plain(config.tune, resolve=True)
        tried = {**(tune["options"] or {}), **searched}.get("dataset.val_source")
        if config.dataset.val_source == "test" or (isinstance(tried, list) and "test" in tried):
            allowed = "train in a sweep that tunes: it must not choose on test images"
            raise UserError("dataset.val_source", "test", allowed)
        declared = worth_tuning(config.method.name) if config.tune.declared else {}
        known, own = loader.get_group_options("optimizer"), config.hydra.runtime.choices["optimizer"]
        rates = rates_asked(tune, row.overrides, own, known, searched)
        return OmegaConf.create({**tune, "lr": rates, "options": {**declared, **(tune["options"] or {})}})

    def _launch(self, jobs: Sequence[Sequence[str]]) -> list[JobReturn]:
        returns: list[JobReturn] = []
        self.validate_batch_is_legal(jobs)
        size = self.max_batch_size or max(len(jobs), 1)
        for batch in self.split_overrides_to_chunks([list(job) for job in jobs], size):
            done = self.launcher.launch(batch, initial_job_idx=self._launched)
            for job in done:
                _ = job.return_value  # raises what the job raised
            returns += done
            self._launched += len(batch)
        return returns
