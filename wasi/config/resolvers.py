"""Resolvers that conf/*.yaml use, registered on import so that launchers' child processes have them too."""

import warnings

from omegaconf import OmegaConf

from wasi.config.hardware import cores_of_job, gpus_for, jobs_side_by_side
from wasi.config.naming import job_folder


def register() -> None:
    """Register `${job_folder:}` and the resolvers of conf/hydra/launcher/; calling it again is harmless."""
    OmegaConf.register_new_resolver("job_folder", lambda *, _root_: job_folder(_root_), replace=True)
    OmegaConf.register_new_resolver("gpus", gpus_for, replace=True)
    OmegaConf.register_new_resolver("gpus_of_job", lambda device: min(1, gpus_for(device)), replace=True)
    OmegaConf.register_new_resolver("cores_of_job", cores_of_job, replace=True)
    OmegaConf.register_new_resolver("jobs_side_by_side", jobs_side_by_side, replace=True)


register()
# The files of conf/hydra/launcher/ replace the plugins' own configurations of the same name on purpose.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
