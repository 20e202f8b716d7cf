"""The resolvers that conf/*.yaml use. Registered on import, so that launchers' child processes have them too."""

import warnings

from omegaconf import OmegaConf

from wasi.config.hardware import cores_of_job, gpus_for, places_for
from wasi.config.naming import job_folder


def register() -> None:
    """Make `${job_folder:}`, and what conf/hydra/launcher/ asks of the machine, known to OmegaConf.

    Harmless when it is called again.
    """
    OmegaConf.register_new_resolver("job_folder", lambda *, _root_: job_folder(_root_), replace=True)
    OmegaConf.register_new_resolver("gpus", gpus_for, replace=True)
    OmegaConf.register_new_resolver("gpus_of_job", lambda device: min(1, gpus_for(device)), replace=True)
    OmegaConf.register_new_resolver("cores_of_job", cores_of_job, replace=True)
    OmegaConf.register_new_resolver("places", places_for, replace=True)


register()
# conf/hydra/launcher/joblib.yaml and its like take the place of the plugins' own of the same name.
warnings.filterwarnings("ignore", r"\s*'hydra/launcher/\w+' is validated against ConfigStore schema")
