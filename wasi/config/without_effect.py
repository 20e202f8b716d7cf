"""Remarks on options of a command line that change nothing in the jobs that they were given for."""

from collections.abc import Iterable, Mapping, Sequence
from itertools import chain

from omegaconf import DictConfig

from wasi.config.overrides import option_and_value
from wasi.config.rank_options import options_without_effect
from wasi.config.relevance import has_effect, is_of_a_step, starts_from_data


def idle_options(cfg: DictConfig, words: Sequence[str]) -> dict[str, str]:
    """Return the options of a command line that have no effect on a run, each with the other option that is the reason.

    For example `{"rank.weight_epsilon": "method=lora"}`.
    """
    given = _given(words)
    idle = dict.fromkeys(options_without_effect(cfg, given), f"method={cfg.method.name}")
    if not starts_from_data(cfg.method):
        calibrating = (option for option in given if option.endswith(".calibration_batches"))
        idle |= dict.fromkeys(calibrating, f"method.type={cfg.method.type}")
    if "augment.ratio" in given and cfg.augment.scale is None:
        idle["augment.ratio"] = "augment.scale=null"
    # A folder of images that lacks two parts takes the size of one of them from the share even so.
    if "dataset.val_fraction" in given and cfg.dataset.val_size is not None and cfg.dataset.name != "image_folder":
        idle["dataset.val_fraction"] = f"dataset.val_size={cfg.dataset.val_size}"
    elif "dataset.val_fraction" in given and cfg.dataset.val_source == "test" and cfg.dataset.name != "image_folder":
        idle["dataset.val_fraction"] = "dataset.val_source=test"
    return idle


def remarks(jobs: Sequence[Mapping[str, str]]) -> list[str]:
    """Return a sentence for each option that has no effect in any of the jobs, given the `idle_options` of each.

    >>> lora, vanilla = {"rank.init": "method=lora", "rank.keep_ratio": "method=lora"}, {"rank.init": "method=vanilla"}
    >>> remarks([lora, vanilla])
    ['rank.init has no effect with method=lora or method=vanilla']
    """
    in_all = [option for option in dict.fromkeys(chain(*jobs)) if all(option in job for job in jobs)]
    return [f"{option} has no effect with {_either(job[option] for job in jobs)}" for option in in_all]


def _either(reasons: Iterable[str]) -> str:
    return " or ".join(dict.fromkeys(reasons))


def remarks_on_benchmark(words: Sequence[str]) -> list[str]:
    """Return a sentence for each option of a command line that concerns a whole training, which a benchmark has not.

    >>> remarks_on_benchmark(["train.monitor=true", "train.memory=lean", "optimizer.lr=1", "scheduler=constant"])
    ['train.monitor changes nothing that a benchmark measures', 'scheduler changes nothing that a benchmark measures']
    """
    of_training = [option for option in _given(words) if option.partition(".")[0] in ("train", "scheduler")]
    idle = [one for one in of_training if not has_effect(one) or not is_of_a_step(one if "." in one else f"{one}.")]
    return [f"{option} changes nothing that a benchmark measures" for option in idle]


def _given(words: Sequence[str]) -> list[str]:
    return [option for option, _ in map(option_and_value, words)]
