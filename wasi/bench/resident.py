"""Resident memory of a configuration's training, measured in a subprocess. Imports no torch."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from wasi.bench.baseline import measured_config
from wasi.bench.children import Child
from wasi.errors import UserError
from wasi.measure import rss
from wasi.runs.out_of_memory import collect_garbage

logger = logging.getLogger(__name__)

_STEPS = 2  # the first step allocates the optimizer's state, the second runs with it


def resident_memory(child: Child) -> dict[str, float]:
    """Build the model in `child`, run two steps and return the resident peaks in MiB.

    Args:
        child: a new process with its configuration loaded but no model built.

    Returns:
        `memory/train_rss_peak_mib`: peak of the steps above the process's size with libraries and data, before the
        model was built; `memory/process_rss_peak_mib`: peak of the whole process since its start.
    """
    peaks = child.ask("rss_peak", steps=_STEPS)
    return {
        "memory/train_rss_peak_mib": peaks["peak"] - peaks["baseline"],
        "memory/process_rss_peak_mib": peaks["total"],
    }


def resident_memory_of(cfg: DictConfig, num_threads: int, log: Path) -> dict[str, float]:
    """Return `resident_memory` of a configuration, measured in a new process whose output goes to `log`.

    Raises:
        ChildFailed: the process failed or died.
        UserError: its peak is above `device.memory_limit_mib`.
    """
    logger.info("measuring the memory of a whole run, in a process of its own")
    collect_garbage()  # of a GPU's memory, that process could not use what this one keeps beyond its model
    with Child("memory", log, rss.child_environment(num_threads)) as child:
        child.ask("load", config=measured_config(cfg), smaller=True)  # as training does
        found = resident_memory(child)
    limit = cfg.device.memory_limit_mib
    wanted = found["memory/process_rss_peak_mib"]
    if rss.over_limit(wanted, limit):
        raise UserError("device.memory_limit_mib", limit, f"at least {wanted:.0f}, what this run wanted (MiB)")
    return found
