"""What the operating system sees of a configuration's training, in a process of its own. No torch here."""

import logging
from pathlib import Path

from omegaconf import DictConfig

from wasi.bench.baseline import measured_config
from wasi.bench.children import Child
from wasi.errors import UserError
from wasi.measure import rss

logger = logging.getLogger(__name__)

_STEPS = 2  # an optimizer with state reaches its working size in the second


def resident_memory(child: Child) -> dict[str, float]:
    """`memory/*` in MiB: the step's own peak above the baseline, and the whole process's, imports included.

    Args:
        child: fresh, with its configuration loaded but no model built.
    """
    peaks = child.ask("rss_peak", steps=_STEPS)
    return {
        "memory/train_rss_peak_mib": peaks["peak"] - peaks["baseline"],
        "memory/process_rss_peak_mib": peaks["total"],
    }


def resident_memory_of(cfg: DictConfig, num_threads: int, log: Path) -> dict[str, float]:
    """`resident_memory` of a configuration, in a new process that prints into `log`.

    Raises:
        ChildFailed: the process died; UserError: it wanted more than `device.memory_limit_mib`.
    """
    logger.info("measuring the memory of a whole run, in a process of its own")
    with Child("memory", log, rss.child_environment(num_threads)) as child:
        child.ask("load", config=measured_config(cfg), smaller=True)  # as training takes what images there are
        found = resident_memory(child)
    limit = cfg.device.memory_limit_mib
    wanted = found["memory/process_rss_peak_mib"]
    if rss.over_limit(wanted, limit):
        raise UserError("device.memory_limit_mib", limit, f"at least {wanted:.0f}, what this run wanted (MiB)")
    return found
