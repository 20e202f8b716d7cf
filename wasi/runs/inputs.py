"""Checks of packages, data and model that are possible before torch is imported."""

import logging
import os
import re

import psutil
from omegaconf import DictConfig

from wasi.config.hardware import worker_limit
from wasi.config.requirements import check_needs
from wasi.data.catalogue import check_dataset, dataset_identity, kind_of
from wasi.errors import UserError
from wasi.methods.perplexity_table import read_tables
from wasi.models.input_spec import check_architecture, check_image_size
from wasi.models.weights_file import KEYWORDS, saved_header, tensor_shapes
from wasi.runs.launching import runs_on_this_machine
from wasi.runs.training_data import parts_seen

log = logging.getLogger(__name__)


def check_inputs(cfg: DictConfig) -> None:
    """Check that packages and files are there and valid, and that numbers and sizes are possible on this machine.

    Raises:
        UserError: names the option.
    """
    check_needs(cfg)
    check_counts(cfg)
    if cfg.dataset.image_size is not None:
        _check_batch_fits(cfg.dataset.image_size, cfg.dataset.batch_size, 1, 4)
        if cfg.train.memory != "lean":
            _check_batch_fits(cfg.dataset.image_size, cfg.train.micro_batch_size or cfg.dataset.batch_size, 4, 8)
        check_image_size(cfg.model.name, cfg.dataset.image_size)
    if cfg.model.weights not in KEYWORDS:
        _check_weights_file(cfg)
    if cfg.rank.perplexity_table is not None:
        read_tables(cfg.rank.perplexity_table)
    check_dataset(cfg.dataset)


def warn_of_images_seen(cfg: DictConfig) -> None:
    """Log a warning if images that are held out may have trained the run whose model `model.weights` names.

    To be called after `check_inputs`, which refuses data that are not there.
    """
    weights = cfg.model.weights
    if saved_header(weights) is not None and (parts := parts_seen(weights, cfg)):
        log.warning(
            "model.weights=%s: that run divided the same data otherwise, so that images held out here may have trained "
            "it; accuracies on them (%s) may be too high", weights, ", ".join(parts),
        )  # fmt: skip


def check_files(job: DictConfig) -> None:
    """Raise `UserError` for weights or images that are not there, as the job would if it ran; of a sweep, before any.

    Jobs on other machines may see other files. Data sets that are known by name, as they are published as one archive,
    are left to the jobs: a completed one needs no images.

    Args:
        job: its configuration, with the section `hydra`.
    """
    if not runs_on_this_machine(job.hydra):
        return
    if isinstance(job.model.weights, str) and job.model.weights not in KEYWORDS:
        tensor_shapes(job.model.weights)
    if dataset_identity(job.dataset)["content"] == "absent":
        kind_of(job.dataset).available(job.dataset)


def check_counts(cfg: DictConfig) -> None:
    """Raise `UserError` for more threads or loading processes than this machine can bear.

    OMP_NUM_THREADS is looked at where it decides, as OpenMP takes another number in silence if it cannot be used.
    """
    threads = os.environ.get("OMP_NUM_THREADS")
    if threads is not None and cfg.device.num_threads is None:
        first = re.fullmatch(r"\s*0*([1-9][0-9]*)\s*(,\s*[0-9]+\s*)*", threads)  # the others are of nested regions
        if first is None or int(first[1]) > worker_limit():
            allowed = f"a whole number from 1 to {worker_limit()} on this machine, or not set"
            raise UserError("OMP_NUM_THREADS", threads, allowed)
    for option, count in (
        ("device.num_threads", cfg.device.num_threads),
        ("dataset.num_workers", cfg.dataset.num_workers),
    ):
        if (count or 0) > worker_limit():
            raise UserError(option, count, f"at most {worker_limit()} on this machine, 4 for each core or 16")


def _check_batch_fits(size: int, count: int, number_size: int, share: int) -> None:
    """Refuse an image size at which a step, which needs several times its batch of images, would exhaust the memory.

    Args:
        size: height and width of an image in pixels.
        count: images per batch.
        number_size: bytes per number in which the step holds the images.
        share: how many times the batch has to fit into the memory; more for a step that keeps activations of every
            block.
    """
    batch, memory = 3 * number_size * count * size**2 / 2**30, psutil.virtual_memory().total / 2**30
    if batch > memory / share:
        here = f"here {batch:.3g} GiB of {memory:.3g}"
        allowed = f"a size at which a batch of {count} images takes at most 1/{share} of the memory ({here})"
        raise UserError("dataset.image_size", size, allowed)


def _check_weights_file(cfg: DictConfig) -> None:
    shapes, header = tensor_shapes(cfg.model.weights), saved_header(cfg.model.weights)
    check_architecture(cfg.model, header)
    if header is None or cfg.method.scope in ("all", header.scope) or not any(k.endswith(".L") for k in shapes):
        return
    log.warning(
        "model.weights=%s was made with method.scope=%s: with %s, its factors outside it become dense weights",
        cfg.model.weights, header.scope, cfg.method.scope,
    )  # fmt: skip
