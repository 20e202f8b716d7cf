"""A sweep whose jobs run in other processes (`hydra/launcher=`): what can be told before the first of them."""

import os
import shutil
from pathlib import Path

from omegaconf import DictConfig

from wasi.config.hardware import places_for, visible_gpus
from wasi.errors import UserError
from wasi.optional import optional
from wasi.runs.places import offer_places

_PLUGINS = {  # Hydra's, behind each of hydra_plugins/launchers.py
    "Joblib": "hydra_plugins.hydra_joblib_launcher._core",
    "SubmititLocal": "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
    "SubmititSlurm": "hydra_plugins.hydra_submitit_launcher.submitit_launcher",
    "Ray": "hydra_plugins.hydra_ray_launcher._core",
}
_ON_THIS_MACHINE = ("Joblib", "SubmititLocal")

_launched: list[Path] = []  # folders of the jobs of the sweep under way, of those too whose process has died


def prepare_launcher(config: DictConfig) -> None:
    """What the jobs' processes find in their environment: where the code is, and what is to be shared out.

    Raises:
        UserError: the launcher's package is not installed, more jobs than GPUs are to run at a time, or Slurm is asked
            for where there is none.
    """
    name = launcher_name(config.hydra)
    if name not in _PLUGINS:
        return
    for package in ("submitit",) if name.startswith("Submitit") else ():
        optional(package, "hydra/launcher", _choice(config.hydra), "requirements-launchers.txt")
    optional(_PLUGINS[name], "hydra/launcher", _choice(config.hydra), "requirements-launchers.txt")
    if name == "SubmititSlurm" and shutil.which("srun") is None:
        allowed = "joblib or submitit_local on a machine without Slurm (there is no srun in PATH)"
        raise UserError("hydra/launcher", _choice(config.hydra), allowed)
    code = str(Path(__file__).resolve().parents[2])
    given = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != code]
    os.environ["PYTHONPATH"] = os.pathsep.join([code, *given])
    if name in _ON_THIS_MACHINE:
        _share_out(config, name)


def launcher_name(hydra_cfg: DictConfig) -> str:
    """`Joblib` for hydra_plugins.launchers.Joblib; `BasicLauncher` where jobs run one after another."""
    return str(hydra_cfg.launcher["_target_"]).rpartition(".")[2]


def forget_launched() -> None:
    """A new sweep begins."""
    _launched.clear()


def note_launched(job: Path) -> None:
    """A job's folder, of which the end of the sweep looks whether there is a result in it.

    Noted in the sweep's process: as a job begins there, or as a launcher has come back with what a job's process
    returned, which knows its folder best (where `device.name=auto` is another device, the name is another).
    """
    _launched.append(job)


def launched_jobs() -> list[Path]:
    return list(dict.fromkeys(_launched))


def _choice(hydra_cfg: DictConfig) -> str:
    return hydra_cfg.runtime.choices.get("hydra/launcher", launcher_name(hydra_cfg))


def _share_out(config: DictConfig, name: str) -> None:
    device, threads = config.device.name, config.device.num_threads
    places, gpus = places_for(device, threads), visible_gpus() if places_for(device, None) > 1 else []
    jobs = config.hydra.launcher.get("n_jobs")
    if gpus and jobs is not None and not 1 <= jobs <= len(gpus):
        raise UserError("hydra.launcher.n_jobs", jobs, f"at most {len(gpus)} here, one for each GPU")
    if gpus:
        offer_places(gpus)
    elif name == "SubmititLocal":  # which would start them all at once
        offer_places([f"cpu-{number}" for number in range(places)])
