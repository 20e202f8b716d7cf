"""Hydra's plugin `hydra/sweeper=optuna`: a sweep's rows are tuned by Optuna before their other seeds are run.

The published plugin of this name (hydra-optuna-sweeper 1.3.0) asks for optuna<3, and would make of a sweep's rows
values to choose from. Optuna is imported when a sweep begins, because Hydra imports this module at every start.
"""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.core.override_parser.types import Override
from hydra.utils import instantiate
from omegaconf import DictConfig

from hydra_plugins.tuned_sweeper import TunedSweeper
from wasi import file_names
from wasi.config.arguments import target_of
from wasi.config.objectives import direction
from wasi.config.validate import integer_from, is_integer
from wasi.errors import UserError
from wasi.optional import optional
from wasi.runs.result import own_result
from wasi.runs.search import Axes, Space, is_searched, point_of, searched_options, space_of
from wasi.runs.tuned_row import TunedRow, folder_of, found_values, tuned_row
from wasi.runs.tuning import Plan, Row


class OptunaSweeper(TunedSweeper):
    """The two stages of `TunedSweeper`, with a study per row in place of its grid.

    Every trial is in the sweep's `optuna.journal` before its job starts. A sweep that goes on launches the trials asked
    for so far again, of which the completed ones are skipped by their folders, and then asks for those that are left.

    Args:
        n_trials: per row; n_jobs: trials asked for, and launched, at a time.
        sampler: an Optuna sampler with an argument `seed`, to which the number of trials is added for each of them:
            so a sweep that goes on asks for what it would have asked for.
    """

    def __init__(
        self,
        n_trials: int,
        n_jobs: int,
        sampler: DictConfig,
        max_batch_size: int | None = None,
        params: Mapping[str, str] | None = None,
    ):
        super().__init__(max_batch_size, params)
        self.n_trials, self.n_jobs, self.sampler = n_trials, n_jobs, sampler

    def _plan(self, arguments: list[str]) -> Plan:
        self._optuna = optional("optuna", "hydra/sweeper", "optuna")
        for option, value in (("n_trials", self.n_trials), ("n_jobs", self.n_jobs)):
            if not integer_from(1)(value):
                raise UserError(f"hydra.sweeper.{option}", value, "a whole number from 1 up")
        if not isinstance(self.sampler, DictConfig) or "_target_" not in self.sampler:
            allowed = "a class and its arguments, as _target_ and beside it"
            raise UserError("hydra.sweeper.sampler", self.sampler, allowed)
        target_of("hydra.sweeper.sampler", self.sampler)
        if not (is_integer(seed := self.sampler.get("seed")) and 0 <= seed < 2**31):
            raise UserError("hydra.sweeper.sampler.seed", seed, "a whole number from 0 up, below 2^31")
        return super()._plan(arguments)

    @property
    def _trials(self) -> int:
        return self.n_trials

    def _planned(self, overrides: list[Override]) -> Plan:
        searched = searched_options(overrides)
        (jobs,) = self.split_arguments([override for override in overrides if not is_searched(override)], None)
        self.validate_batch_is_legal(jobs)
        return Plan.of(jobs, lambda row: self._asked(row, searched))

    def _asked(self, row: Row, searched: Axes) -> Row:
        space = space_of(self._tune_of(row, searched), row.overrides, searched)
        return replace(row, space=space) if space.is_wide else replace(row, grid=[space.only()])

    def _first_stage(self, plan: Plan, folder: Path) -> list[TunedRow]:
        self._optuna.logging.set_verbosity(self._optuna.logging.WARNING)
        storages, path = self._optuna.storages, folder / file_names.JOURNAL
        lock = storages.journal.JournalFileSymlinkLock(str(path))
        lock.acquire()  # another launcher of this sweep may be writing a line
        try:
            drop_cut_line(path)
        finally:
            lock.release()
        storage = storages.JournalStorage(storages.journal.JournalFileBackend(str(path), lock))
        rows: list[TunedRow] = []
        for row in plan.rows:
            if row.is_tuned:
                rows.append(self._search(row, row.space, plan.seeds[0], storage))
                self._keep(plan, rows[-1:], folder)
        return rows

    def _search(self, row: Row, space: Space, seed: str | None, storage: Any) -> TunedRow:
        study = self._optuna.create_study(
            study_name=f"{row.name} {row.digest(seed)}: {', '.join(self._objectives)}",
            directions=[direction(objective) for objective in self._objectives],
            storage=storage,
            load_if_exists=True,
        )
        returns: dict[int, Any] = {}  # by the trial's number
        points: dict[int, dict[str, Any]] = {}
        while trials := self._next_trials(study, space, done=len(returns)):
            points |= trials
            jobs = self._launch([row.words(point, seed) for point in trials.values()])
            for number, job in zip(trials, jobs, strict=True):
                returns[number] = job
                self._tell(study, number, job)
        return tuned_row(replace(row, grid=list(points.values())), list(returns.values()), self._objectives)

    def _next_trials(self, study: Any, space: Space, done: int) -> dict[int, dict[str, Any]]:
        """Number and point of at most `n_jobs` trials: those asked for by an earlier command, then new ones.

        A trial that lacks a value fails and does not count.
        """
        stored = study.get_trials(deepcopy=False)
        asked = [trial for trial in stored if space.is_drawn(trial)]
        for trial in stored:
            if trial not in asked:
                study.tell(trial.number, state=self._optuna.trial.TrialState.FAIL, skip_if_finished=True)
        if before := asked[done : done + self.n_jobs]:
            return {trial.number: point_of(trial) for trial in before}
        found = {}
        for count in range(len(asked), min(len(asked) + self.n_jobs, self.n_trials)):
            study.sampler = instantiate(self.sampler, seed=self.sampler.seed + count)
            trial = study.ask()
            found[trial.number] = space.suggest(trial)
        return found

    def _tell(self, study: Any, number: int, job: Any) -> None:
        """The objectives' values, or that the trial failed; one that may do better another time is left open."""
        result = own_result(folder_of(job)) or {}
        if (values := found_values(result, self._objectives)) is not None:
            study.tell(number, values, skip_if_finished=True)
        elif result.get("status") in ("completed", "diverged"):
            study.tell(number, state=self._optuna.trial.TrialState.FAIL, skip_if_finished=True)


def drop_cut_line(path: Path) -> None:
    """Remove a last line without an end, which a full disk leaves; Optuna would append the next record to it."""
    if path.exists():
        content = path.read_bytes()
        if (end := content.rfind(b"\n") + 1) < len(content):
            os.truncate(path, end)
