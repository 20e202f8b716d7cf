"""What a choice needs beside it, looked for before data and model are loaded: a package, weights to step on."""

from collections.abc import Collection

from omegaconf import DictConfig, OmegaConf

from wasi.config.validate import is_swept
from wasi.errors import UserError
from wasi.optional import check_installed

# An option, its value, the package that this needs; and how one chooses it.
_PACKAGES = [
    ("optimizer._target_", "wasi.training.baselines.galore", "galore_torch", ("optimizer", "galore")),
    ("optimizer._target_", "wasi.training.baselines.apollo", "apollo_torch", ("optimizer", "apollo")),
    ("optimizer._target_", "wasi.training.baselines.adamw8bit", "bitsandbytes", ("optimizer", "adamw8bit")),
    ("method.name", "peft", "peft", ("method", "peft")),
    ("method.base", "nf4", "bitsandbytes", ("method.base", "nf4")),
]
_OF_PROJECTION = ("optimizer._target_", "method.name", "method.update")
_PROJECTING = {f"wasi.training.baselines.{name}": name for name in ("galore", "apollo")}
# Methods that train no dense weight of their scope; a wsi with method.update=svd does.
_WITHOUT_DENSE = ("lora", "peft", "svd_llm", "linear_probe", "bitfit", "wasi", "wsi")
DENSE = "with a method that trains dense weights of its scope"


def check_needs(cfg: DictConfig, swept: Collection[str] = ()) -> None:
    """Raises UserError for a choice whose package is not installed, and an optimizer that has nothing to project.

    Args:
        swept: keys whose values differ from job to job, which are left to the jobs.
    """
    for option, value, package, chosen in _PACKAGES:
        if not is_swept(option, swept) and OmegaConf.select(cfg, option) == value:
            check_installed(package, *chosen)
    if any(is_swept(option, swept) for option in _OF_PROJECTION):
        return
    target, method, update = (OmegaConf.select(cfg, option) for option in _OF_PROJECTION)
    if target in _PROJECTING and method in _WITHOUT_DENSE and update != "svd":
        raise UserError("optimizer", _PROJECTING[target], DENSE)
