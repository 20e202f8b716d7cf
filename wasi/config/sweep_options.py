"""The options over which a command line sweeps, the name of the sweep, and whether there is one."""

import re
from collections.abc import Sequence, Set

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override, RangeSweep
from hydra.types import RunMode
from omegaconf import DictConfig

from wasi.config.overrides import given_value
from wasi.errors import UserError

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def in_sweep() -> bool:
    """Return whether the job of this process is one of a sweep (`-m`); False without Hydra."""
    return HydraConfig.initialized() and HydraConfig.get().mode == RunMode.MULTIRUN


def swept_options(hydra_cfg: DictConfig) -> set[str]:
    """Return the keys of groups (`rank`) and options (`optimizer.lr`) with several values, see `sweep_overrides`."""
    return {override.get_key_element() for override in sweep_overrides(hydra_cfg)}


def sweep_overrides(hydra_cfg: DictConfig) -> list[Override]:
    """Return the overrides with several values; the command line takes precedence over the sweeper's `params`.

    Raises:
        UserError: the step of a range is 0, for which Hydra has a traceback.
    """
    params = hydra_cfg.sweeper.get("params") or {}
    given = OverridesParser.create().parse_overrides(list(hydra_cfg.overrides.task))
    by_default = OverridesParser.create().parse_overrides([f"{key}={value}" for key, value in params.items()])
    last = {override.get_key_element(): override for override in [*by_default, *given]}
    swept = [override for override in last.values() if override.is_sweep_override()]
    for override in swept:
        value = override.value()
        if isinstance(value, RangeSweep) and value.step == 0:
            text = str(override.input_line).partition("=")[2]
            raise UserError(override.get_key_element(), text, "range(FROM, TO, STEP) with another STEP than 0")
    return swept


def sweep_name(cfg: DictConfig, swept: Set[str] = frozenset(), words: Sequence[str] = ()) -> str:
    """Return the option `sweep`, checked to be usable as the name of one folder and one W&B group.

    Args:
        words: the overrides of the command line.

    Raises:
        UserError: it is empty, has several values, starts with a dot, or contains a slash, blank or other special
            character; or it was given as a number that is written otherwise than Hydra's value of it, as 2026_11_29 is.
    """
    allowed = "one name of letters, digits and _ . + -, not starting with a dot, and no slash"
    if "sweep" in swept:
        raise UserError("sweep", "several values", allowed)
    name = cfg.get("sweep")  # absent after the override `~sweep`
    if isinstance(name, bool) or not isinstance(name, (str, int, float)) or not _NAME.fullmatch(str(name)):
        raise UserError("sweep", name, allowed)
    given = given_value("sweep", words)
    if not isinstance(name, str) and given not in (None, str(name)):
        raise UserError("sweep", given, f"a number as {name} (which this is), or a name: 'sweep=\"{given}\"'")
    return str(name)
