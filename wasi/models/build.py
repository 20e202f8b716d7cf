"""Build the configured model: architecture, weights, and a newly initialised head."""

from collections.abc import Sequence
from contextlib import nullcontext

import torch
from omegaconf import DictConfig
from torch import nn

from wasi.data.spec import Data, InputSpec
from wasi.models.attention import replace_window_attention
from wasi.models.input_spec import architecture_of, check_architecture, library_of
from wasi.models.loading import load_file
from wasi.models.mapped import mapped_weights, release_pages_after_each_block
from wasi.models.restart import load_saved
from wasi.models.rng import seeded
from wasi.models.surrogate import surrogate_
from wasi.models.weights_file import saved_header, tensor_shapes


def model_of(cfg: DictConfig, data: Data, spec: InputSpec, device: torch.device) -> nn.Module:
    """Return the model of a whole configuration, with a head for the classes of `data`, on `device`.

    On a CPU its large weights stay in a memory-mapped file, see `build_model`.
    """
    mapped = device.type == "cpu"
    return build_model(cfg.model, data.num_classes, spec, cfg.seed, mapped, data.classes).to(device)


def build_model(
    cfg_model, num_classes: int, spec: InputSpec, seed: int, mapped: bool = False, classes: Sequence[str] | None = None
) -> nn.Module:
    """Return the model of `cfg_model` with `num_classes` outputs, in float32 on the CPU.

    It is the library's own but for torchvision's Swin, which gets an equal, faster attention.

    Random initialisation (of the head, or of everything with random or surrogate weights) depends on `seed` alone,
    and the global random generator is left unchanged.

    Args:
        cfg_model: the configuration group `model`.
        spec: its `image_size` is the model's input size.
        mapped: keep large weights in a memory-mapped file until `wasi.models.mapped.into_memory` is called.
        classes: names of the outputs. The head of a run's model is taken if it has the same; with None, if it has as
            many.

    Raises:
        UserError: the weights cannot be downloaded or read, or do not fit the model.
    """
    with mapped_weights() if mapped else nullcontext():
        model = replace_window_attention(_build(cfg_model, num_classes, spec, seed, classes))
    return release_pages_after_each_block(model) if mapped else model


def _build(
    cfg_model, num_classes: int, spec: InputSpec, seed: int, classes: Sequence[str] | None
) -> nn.Module:
    library, name, source = library_of(cfg_model), architecture_of(cfg_model), str(cfg_model["weights"])
    if source == "pretrained":
        with seeded(seed):
            return library.create_pretrained(name, spec.image_size, num_classes)
    header = None
    if source not in ("random", "surrogate"):  # a wrong path is reported before anything is built
        tensor_shapes(source)
        header = saved_header(source)
        check_architecture(cfg_model, header)
    with seeded(seed):
        model = library.create(name, spec.image_size, num_classes)
    if source == "surrogate":
        surrogate_(model, seed)
    elif header is not None:
        load_saved(model, source, header, library.head_prefixes(model), library.adapt, classes)
    elif source != "random":
        load_file(model, source, library.head_prefixes(model), library.adapt)
    return model
