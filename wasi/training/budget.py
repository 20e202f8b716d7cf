"""`train.memory_budget_mib`: choose chunk and segment size of a `train.memory=lean` run to fit a memory budget.

The estimate, of the resident memory of the whole process in MiB, is made from shapes before weights or data are loaded
and is meant to be an upper bound. Ranks that a threshold will give are not known then; they are assumed to be those of
a pretrained ViT-B/32 at the same threshold.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise, product
from math import ceil
from typing import cast

import torch
from hydra.utils import get_class
from omegaconf import DictConfig, OmegaConf
from torch import nn

from wasi.config.declared import null_means
from wasi.config.levels import measure_level
from wasi.data.spec import InputSpec
from wasi.data.synthetic import CLASSES
from wasi.deferred import without_compiler
from wasi.errors import UserError
from wasi.methods.calibration import CHUNK
from wasi.methods.method import Method
from wasi.models.input_spec import architecture_of, library_of
from wasi.models.mapped import SUMS_FROM
from wasi.models.outline import without_weights
from wasi.models.structure import find_blocks, linear_sites
from wasi.models.surrogate import ENERGY, KEPT
from wasi.training.segments import segment_lengths

log = logging.getLogger(__name__)

OPTION = "train.memory_budget_mib"
_MIB = 2**20
_CHUNKS, _SEGMENTS = (16, 8, 4, 2, 1), (2, 1, 3, 4, 6)
_CLASSES = 200  # assumed for the head, as the data set is not read yet
_RUNTIME = 24  # MiB of thread pools, kernels and their buffers, which the first step allocates
_STEP = 16  # MiB to which the process's present size is rounded up, so that repeated runs get the same estimate
_ARRAYS_MIB = {"cifar10": 352, "cifar100": 352, "fashion_mnist": 107, "digits": 16}  # two copies, as while reading
_WORKER = 24  # MiB that a worker process of a data loader takes for itself (measured with ViT-B/32)
_PHOTO = 96  # MiB of a 12-megapixel image at Pillow's 4 bytes, twice while it is turned upright
_SLACK = 1.1  # allocated over used memory: fragmentation
_HOLES = 2.2  # size of the heap for a chunk's tensors over the largest sum of live ones (ViT-B/32, glibc)


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model, in elements; those of activations are per image.

    Attributes:
        scope: `(out_features, in_features)` of each dense weight in the method's scope.
        rest: number of all other parameters.
        blocks: per block, inputs and outputs of all its linear layers together.
        passing: the largest input of a block.
        image: the input image.
        widest: the largest input of a linear layer in scope.
        largest_block: parameters of the largest block.
    """

    scope: tuple[tuple[int, int], ...]
    rest: int
    blocks: tuple[int, ...]
    passing: int
    image: int
    widest: int
    largest_block: int


def apply_budget(cfg: DictConfig, spec: InputSpec, resident: Callable[[], float]) -> dict[str, float]:
    """Set `train.chunk_size` and `train.segment_size`, where they are null, to the best values that fit, and log them.

    The largest chunk that fits is taken first, then the first fitting segment size in the order of `_SEGMENTS`.

    Args:
        resident: returns the resident memory of this process in MiB; called after the model's library is imported.

    Returns:
        The metric `memory/expected_process_mib`.

    Raises:
        UserError: no choice fits; the message names the least budget that would.
    """
    sizes = model_sizes(cfg, spec)
    resident_mib = resident()
    choices = product(_choices(cfg.train.chunk_size, _CHUNKS), _choices(cfg.train.segment_size, _SEGMENTS))
    fixed = cfg.copy()
    OmegaConf.resolve(fixed)  # each access of an interpolation would parse it again, some 4000 times
    expected = {choice: process_mib(fixed, sizes, *choice, resident_mib) for choice in choices}
    budget, least = cfg.train.memory_budget_mib, min(expected.values())
    fitting = [choice for choice, mib in expected.items() if mib <= budget]
    if not fitting:
        raise UserError(OPTION, budget, f"at least {least}, what this run would take as a whole process (MiB)")
    chunk, segment = fitting[0]
    cfg.train.chunk_size, cfg.train.segment_size = chunk, segment
    log.info(
        "%s=%g: train.chunk_size=%d train.segment_size=%d, expected %d MiB, %.0f of them for the libraries; least %d",
        OPTION, budget, chunk, segment, expected[chunk, segment], resident_mib, least,
    )  # fmt: skip
    if measure_level(cfg.train.measure) != "none":
        log.warning("train.measure=%s may take more than that, after training; none leaves it out", cfg.train.measure)
    return {"memory/expected_process_mib": expected[chunk, segment]}


def process_mib(cfg: DictConfig, sizes: ModelSizes, chunk: int, segment: int, resident_mib: float) -> int:
    """Return the expected peak of the whole process's resident memory in MiB, from set-up to the last step."""
    base = ceil(resident_mib / _STEP) * _STEP + _RUNTIME + _data(cfg, sizes) + _workers(cfg, sizes)
    return ceil(base + _SLACK * max(_set_up(cfg, sizes), _training(cfg, sizes, chunk, segment)) / _MIB)


def model_sizes(cfg: DictConfig, spec: InputSpec) -> ModelSizes:
    """Return the sizes of the model that `cfg` names, from a forward pass on the `meta` device, without weights."""
    library, name = library_of(cfg.model), architecture_of(cfg.model)
    model = without_weights(lambda: library.create(name, spec.image_size, _CLASSES)).to("meta")
    sites = linear_sites(model, "all")
    in_scope = {site.name for site in linear_sites(model, cfg.method.scope)}
    inputs = _block_inputs(model, spec.image_size)
    blocks = find_blocks(model)
    tokens = {name: inputs[name][0] // inputs[name][1] for name in blocks}
    scope = tuple((site.out_features, site.in_features) for site in sites if site.name in in_scope)
    return ModelSizes(
        scope=scope,
        rest=sum(p.numel() for p in model.parameters()) - sum(o * i for o, i in scope),
        blocks=tuple(
            sum(tokens[name] * (s.in_features + s.out_features) for s in sites if s.block == name) for name in blocks
        ),
        passing=max(numbers for numbers, _ in inputs.values()),
        image=3 * spec.image_size**2,
        widest=max(tokens[site.block] * site.in_features for site in sites if site.name in in_scope),
        largest_block=max(sum(p.numel() for p in block.parameters()) for block in blocks.values()),
    )


def _block_inputs(model: nn.Module, image_size: int) -> dict[str, tuple[int, int]]:
    """Return for each block the elements of its input per image, and the input's number of features."""
    seen: dict[str, tuple[int, int]] = {}
    names = {block: name for name, block in find_blocks(model).items()}

    def see(block: nn.Module, args: tuple) -> None:
        seen[names[block]] = args[0].numel() // 2, args[0].shape[-1]

    for block in names:
        block.register_forward_pre_hook(see)
    with torch.no_grad(), without_compiler():
        model.train()(torch.empty(2, 3, image_size, image_size, device="meta"))
    return seen


def _choices(given: int | None, all_of: tuple[int, ...]) -> tuple[int, ...]:
    return all_of if given is None else (given,)


def _data(cfg: DictConfig, sizes: ModelSizes) -> float:
    """MiB of data sets held in memory; image files and synthetic images are read or made batch by batch."""
    data = cfg.dataset
    if data.name != "synthetic":
        return _ARRAYS_MIB.get(data.name, 0)
    splits = 2 if data.val_source == "test" else 3
    return splits * CLASSES * 4 * sizes.image / _MIB  # one pattern per class and split


def _workers(cfg: DictConfig, sizes: ModelSizes) -> float:
    """MiB of data-loading worker processes, for training and for validation.

    Included are the weights, gradients and states that the workers were started with: their pages stay in memory, in
    the workers, when this process writes new ones.
    """
    each = _WORKER + _PHOTO
    count = cfg.dataset.num_workers or 0
    return 2 * count * each + (_kept_weights(cfg, sizes) + _trained(cfg, sizes)) / _MIB if count else 0


def _set_up(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes at the peak of set-up.

    That is when a layer is factored beside the finished ones, or before, when calibration images pass through the
    model, whose dense weights are in a mapped file.
    """
    largest = max(o * i for o, i in sizes.scope)
    smaller = max(min(o, i) for o, i in sizes.scope)
    factoring = 8 * (largest + 4 * smaller**2) + 4 * largest
    moments = _moments(cfg, sizes)
    batch, looking = cfg.dataset.batch_size, moments
    if cfg.method.get("activations") is not None or moments:  # the input of one layer, in float64
        looking += 4 * batch * (sizes.image + 2 * sizes.passing + 2 * sizes.widest) + 8 * batch * sizes.widest
        looking += 4 * sizes.largest_block
    if moments:  # a chunk's activations inside one block, and its saved inputs of all blocks
        looking += 4 * min(CHUNK, batch) * (2 * max(sizes.blocks) + sizes.passing * len(sizes.blocks))
    return max(_kept_weights(cfg, sizes) + factoring + moments, 4 * sizes.rest + looking)


def _moments(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes of all layers' second moments, with temporaries for the layer being made; 0 if the method takes none."""
    method = cfg.method
    narrow = [8 * min(o, i) ** 2 for o, i in sizes.scope]  # float64 moments of outputs or inputs, whichever are fewer
    found = 0.0
    if method.get("init") == "features" or method.get("weight_allocation") == "sensitivity":
        found = 2 * (_in_memory(narrow) + 2 * max(narrow))
    elif method.get("init") == "output":
        found = _in_memory(narrow) + 3 * max(narrow)
    if "keep_ratio" in method:  # SVD-LLM takes moments of the inputs
        of_inputs = [4 * i * i for _, i in sizes.scope]
        found += _in_memory(of_inputs) + 9 * max(of_inputs)
    return found


def _in_memory(sums: list[int]) -> int:
    """Bytes of those `sums` over calibration data (sizes in bytes) that are kept in memory, not in a mapped file."""
    return sum(size for size in sums if size < SUMS_FROM)


def _training(cfg: DictConfig, sizes: ModelSizes, chunk: int, segment: int) -> float:
    """Bytes at the peak of training: weights, gradients and optimizer state, and the largest of three others.

    These follow one another: the segments' saved inputs with a chunk inside one segment; the update; an image file that
    is read for the next step.
    """
    batch, storage = cfg.dataset.batch_size, 4 if cfg.train.storage == "float32" else 2
    held = cfg.train.micro_batch_size or batch
    segments = len(segment_lengths(len(sizes.blocks), segment))
    kept = held * (sizes.passing * (storage * (segments + 1) + 4 * 2) + 2 * sizes.image)
    inside = _HOLES * 4 * min(chunk, held) * (segment + 0.5) * max(sizes.blocks)
    stays = _kept_weights(cfg, sizes) + _trained(cfg, sizes) + _preconditioners(cfg, sizes)
    return stays + max(kept + inside, _update(cfg, sizes), _photo(cfg))


def _kept_weights(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes of all parameters after the method has been applied."""
    return 4 * (sizes.rest + sum(_layer(cfg, o, i) for o, i in sizes.scope))


def _trained(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes of gradients and optimizer state."""
    method, optimizer = cfg.method, cfg.optimizer
    if not cast(type[Method], get_class(method["_target_"])).trains_matrices:
        return 0
    rest = sizes.rest if method.get("train_rest", True) else 0
    adapter = _adapter_rank(cfg)
    kind = str(optimizer["_target_"]).rpartition(".")[2]
    trained = sum(
        adapter * (o + i) if adapter else _layer(cfg, o, i) * (o / (o + i) if _in_coordinates(cfg, kind) else 1)
        for o, i in sizes.scope
    )
    if kind in ("galore", "apollo"):  # two moments of the projected gradient, and the projection; AdamW for the rest
        projected = sum(optimizer.rank * (2 * max(o, i) + min(o, i)) for o, i in sizes.scope)
        return 4 * (rest + trained + 2 * rest + projected)
    if kind == "Swan":  # its momentum shares memory with the gradient; AdamW for the rest
        return 4 * (rest * 3 + trained)
    if kind == "SGD":
        states = int(bool(optimizer.get("momentum")))
    else:  # of torch's optimizers none but LBFGS has more, other than with these options
        states = 2 + bool(optimizer.get("amsgrad") or optimizer.get("centered"))
    return 4 * (rest + trained) * (1 + states)


def _update(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes of the coordinates `C` of all layers until they are folded, if gradients or momentum exist beside them."""
    kind = str(cfg.optimizer["_target_"]).rpartition(".")[2]
    beside = _in_coordinates(cfg, kind) and (kind == "SGD" or cfg.optimizer.get("momentum"))
    return 4 * sum(_layer(cfg, o, i) * o / (o + i) for o, i in sizes.scope) if beside else 0


def _preconditioners(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes of `FactoredLinear.P` (`K x r`, at most `K x K`) of all layers, if it is kept between steps."""
    kind = str(cfg.optimizer["_target_"]).rpartition(".")[2]
    if cfg.method.get("preconditioner") != "basis" or not _in_coordinates(cfg, kind):
        return 0
    return 4 * sum((_layer(cfg, o, i) / (o + i)) ** 2 for o, i in sizes.scope)


def _photo(cfg: DictConfig) -> float:
    """Bytes of a large decoded image file, if this process rather than a worker reads it."""
    files = cfg.dataset.name not in (*_ARRAYS_MIB, "synthetic")
    return _PHOTO * _MIB if files and not cfg.dataset.num_workers else 0


def _in_coordinates(cfg: DictConfig, kind: str) -> bool:
    """Whether the optimizer steps on coordinates (`FactoredLinear.C`, no larger than `L`) instead of the factors."""
    subspace = cfg.method.get("activations") is not None and cfg.method.get("update") == "subspace"
    return subspace and _is_factored(cfg) and (kind == "Swan" or kind == "SGD" and not cfg.optimizer.get("momentum"))


def _layer(cfg: DictConfig, outputs: int, inputs: int) -> float:
    """Parameters of a layer in scope after the method has been applied, of its weight and its adapter."""
    adapter = _adapter_rank(cfg) * (outputs + inputs)
    if not _is_factored(cfg):
        return outputs * inputs + adapter
    asked = cfg.method.get("parameter_ratio") or cfg.method.get("keep_ratio")
    full = 1 + min(outputs, inputs) / max(outputs, inputs)  # parameters of full-rank factors over those of the weight
    return min(asked or _share(cfg.method.weight_epsilon, full), full) * outputs * inputs + adapter


def _adapter_rank(cfg: DictConfig) -> int:
    """Return `k` such that an adapter has at most `k (outputs + inputs)` parameters; 0 for a method without adapters.

    This also bounds peft's other tuners: the `k x k` blocks of OFT and BOFT, the shared matrices of VeRA, the vectors
    of IA3. SVD-LLM, with an adapter on each factor of rank `K`, has `2 k K` more, which `_SLACK` covers.
    """
    method = cfg.method
    if "lora_rank" not in method:
        return 0
    rank = method.lora_rank or method.get("block_size") or null_means(method.name).get("lora_rank", 0)
    return max(method.get("init_rank") or 0, ceil(1.5 * rank)) if method.get("type") == "adalora" else rank


def _is_factored(cfg: DictConfig) -> bool:
    return cfg.method.get("weight_epsilon") is not None and cfg.method.get("update") != "svd"


def _share(epsilon: float, full: float) -> float:
    """Parameters of factors at `epsilon` over those of the dense weight, `full` at full rank.

    Interpolated linearly between the values of a pretrained ViT-B/32.
    """
    known = [(0.0, 0.0), *zip(ENERGY, KEPT, strict=True), (1.0, full)]
    for (low, less), (high, more) in pairwise(known):
        if epsilon <= high:
            return less + (more - less) * (epsilon - low) / (high - low)
    return full
