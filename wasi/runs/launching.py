"""Checks and set-up of a sweep whose jobs run in other processes (`hydra/launcher=`), before the first job."""

import os
import re
import shutil
from pathlib import Path

from omegaconf import DictConfig

from wasi.config.hardware import jobs_side_by_side, visible_gpus
from wasi.errors import UserError
from wasi.optional import optional
from wasi.runs.job_slots import publish_job_slots

# The package of Hydra's launcher behind each class of hydra_plugins/launchers.py, and its module.
_PLUGINS = {
    "Joblib": ("hydra-joblib-launcher", "hydra_plugins.hydra_joblib_launcher._core"),
    "SubmititLocal": ("hydra-submitit-launcher", "hydra_plugins.hydra_submitit_launcher.submitit_launcher"),
    "SubmititSlurm": ("hydra-submitit-launcher", "hydra_plugins.hydra_submitit_launcher.submitit_launcher"),
    "Ray": ("hydra-ray-launcher", "hydra_plugins.hydra_ray_launcher._core"),
}
# Options of joblib: a pattern of what is allowed beside null, and that in words.
_OF_JOBLIB = {
    "n_jobs": ("-?0*[1-9][0-9]*", "a whole number from 1 up, or -1 for one job per core (-2: one less)"),
    "batch_size": ("auto|0*[1-9][0-9]*", "a whole number from 1 up, or auto"),
    "pre_dispatch": (r"all|([1-9][0-9]*\*)?n_jobs|0*[1-9][0-9]*", "a whole number from 1 up, or all or 2*n_jobs"),
    "prefer": ("processes", "processes or null, as each job is a process of its own"),
    "require": ("(?!)", "null, as each job is a process of its own"),
    "max_nbytes": (r"[0-9]+(\.[0-9]+)?[KMG]?", "a number of bytes such as 1M, or null"),
}
_ON_THIS_MACHINE = ("Joblib", "SubmititLocal")

_launched: list[Path] = []  # folders of the current sweep's jobs, also of those whose process has died
_failed: dict[Path, str] = {}  # those that failed in a process of their own, with their errors


def prepare_launcher(config: DictConfig) -> None:
    """Set the environment of the jobs' processes: where the code is, and which GPUs or CPU slots they share.

    Raises:
        UserError: the launcher's package is not installed, more jobs than GPUs are to run at a time, or Slurm is
            selected on a machine that does not have it.
    """
    name = launcher_name(config.hydra)
    if name not in _PLUGINS:
        return
    if name.startswith("Submitit"):
        optional("submitit", "hydra/launcher", _choice(config.hydra), "requirements-launchers.txt")
    package, module = _PLUGINS[name]
    optional(module, "hydra/launcher", _choice(config.hydra), "requirements-launchers.txt", package)
    if name == "SubmititSlurm" and shutil.which("srun") is None:
        allowed = "joblib or submitit_local on a machine without Slurm (there is no srun in PATH)"
        raise UserError("hydra/launcher", _choice(config.hydra), allowed)
    if name == "Joblib":
        _check_joblib(config.hydra.launcher)
    code = str(Path(__file__).resolve().parents[2])
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != code]
    os.environ["PYTHONPATH"] = os.pathsep.join([code, *given])
    if name in _ON_THIS_MACHINE:
        _share_out(config, name)


def launcher_name(hydra_cfg: DictConfig) -> str:
    """Return the launcher's class name: `Joblib`, …; `BasicLauncher` if jobs run one after another in this process."""
    return str(hydra_cfg.launcher["_target_"]).rpartition(".")[2]


def runs_on_this_machine(hydra_cfg: DictConfig) -> bool:
    """Return whether the launcher runs jobs on this machine only."""
    return launcher_name(hydra_cfg) in ("BasicLauncher", *_ON_THIS_MACHINE)


def reset_launched_jobs() -> None:
    """Forget the noted folders, as a new sweep begins."""
    _launched.clear()
    _failed.clear()


def record_launched_job(job: Path, error: str | None = None) -> None:
    """Note a job's folder, so that the end of the sweep can check that it has a result.

    Args:
        error: with which it failed in a process of its own, as far as that has told; None of a job in this process.

    Called in the sweep's process: when a job begins there, or when a launcher returns what the job's process reported.
    Only that process knows the folder for certain, as its name depends on which device `device.name=auto` is there.
    """
    _launched.append(job)
    if error is not None:
        _failed[job] = error


def launched_jobs() -> list[Path]:
    """Return the noted folders, each once."""
    return list(dict.fromkeys(_launched))


def failed_elsewhere() -> dict[Path, str]:
    """Return the noted jobs that failed in processes of their own, by folder, with their errors."""
    return dict(_failed)


def _choice(hydra_cfg: DictConfig) -> str:
    return hydra_cfg.runtime.choices.get("hydra/launcher", launcher_name(hydra_cfg))


def _check_joblib(options: DictConfig) -> None:
    """Refuse values that joblib raises for when the first job is to begin, and threads in place of processes."""
    for option, (pattern, allowed) in _OF_JOBLIB.items():
        value = options.get(option)
        if value is not None and re.fullmatch(pattern, str(value)) is None:
            raise UserError(f"hydra.launcher.{option}", value, allowed)


def _share_out(config: DictConfig, name: str) -> None:
    device, threads = config.device.name, config.device.num_threads
    slots, gpus = jobs_side_by_side(device, threads), visible_gpus() if jobs_side_by_side(device, None) > 1 else []
    jobs = config.hydra.launcher.get("n_jobs")
    if gpus and jobs is not None and not 1 <= jobs <= len(gpus):
        raise UserError("hydra.launcher.n_jobs", jobs, f"at most {len(gpus)} here, one for each GPU")
    if gpus:
        publish_job_slots(gpus)
    elif name == "SubmititLocal":  # it starts all jobs at once; those without a slot wait
        publish_job_slots([f"cpu-{number}" for number in range(slots)])
