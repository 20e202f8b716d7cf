"""Checks that optional packages that a choice needs are installed, before data and model are loaded."""

from collections.abc import Collection

from omegaconf import DictConfig, OmegaConf

from wasi.config.validate import is_swept
from wasi.optional import check_installed

# An option, its value, the package that this value needs; and the override that selects it, for the message.
_PACKAGES = [
    ("optimizer._target_", "wasi.training.baselines.galore", "galore_torch", ("optimizer", "galore")),
    ("optimizer._target_", "wasi.training.baselines.apollo", "apollo_torch", ("optimizer", "apollo")),
    ("optimizer._target_", "wasi.training.baselines.adamw8bit", "bitsandbytes", ("optimizer", "adamw8bit")),
    ("method.name", "peft", "peft", ("method", "peft")),
    ("method.base", "nf4", "bitsandbytes", ("method.base", "nf4")),
]


def check_needs(cfg: DictConfig, swept: Collection[str] = ()) -> None:
    """Raise `UserError` for a choice whose package is not installed.

    Args:
        swept: keys whose values differ from job to job; they are left to the jobs.
    """
    for option, value, package, chosen in _PACKAGES:
        if not is_swept(option, swept) and OmegaConf.select(cfg, option) == value:
            check_installed(package, *chosen)
