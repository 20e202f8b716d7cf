"""`train.memory_budget_mib`: what a lean run will take as a whole process, told from shapes before anything is loaded.

An estimate from above, of whole-process resident memory in MiB. What cannot be known before weights and data are looked
at (ranks that a threshold will give) is taken at what ViT-B/32 gives at the same threshold.
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
_CLASSES = 200  # of a head, as the data are not looked at yet
_RUNTIME = 24  # MiB: thread pools, kernels and their buffers, which the first step brings
_STEP = 16  # MiB in which the process's present size is counted, so that the answer is the same next time
_ARRAYS_MIB = {"cifar10": 352, "cifar100": 352, "fashion_mnist": 107, "digits": 16}  # held, and once more while read
_WORKER = 24  # MiB of its own that a process which loads data takes (measured on ViT-B/32's)
_PHOTO = 96  # MiB: 12 megapixels at Pillow's 4 bytes, and once more while it is turned upright
_SLACK = 1.1  # of what is allocated, for what an allocator cannot use of it
_HOLES = 2.2  # heap that a chunk's tensors come from, which stays, over what lives in it (ViT-B/32, glibc)


@dataclass(frozen=True)
class ModelSizes:
    """Sizes of a model in numbers, of images per image.

    scope, rest: dense weights in the method's scope, as (outputs, inputs), and all other parameters; blocks: per block
    what its linears read and write; passing: the largest of what passes from one block to the next; image: of the
    input; widest: inputs of the scope's linears, the largest; largest_block: parameters.
    """

    scope: tuple[tuple[int, int], ...]
    rest: int
    blocks: tuple[int, ...]
    passing: int
    image: int
    widest: int
    largest_block: int


def apply_budget(cfg: DictConfig, spec: InputSpec, resident: Callable[[], float]) -> dict[str, float]:
    """Set `train.chunk_size` and `train.segment_size`, where they are null, to what fits into the budget, and say so.

    Args:
        resident: MiB of this process; asked once the model's library has been imported.

    Returns:
        `memory/expected_process_mib`.

    Raises:
        UserError: nothing fits; it names the least budget that would do.
    """
    sizes = model_sizes(cfg, spec)
    resident_mib = resident()
    choices = product(_choices(cfg.train.chunk_size, _CHUNKS), _choices(cfg.train.segment_size, _SEGMENTS))
    fixed = cfg.copy()
    OmegaConf.resolve(fixed)  # once: each reading of an interpolation parses it, some 4000 times otherwise
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
    """Expected resident memory of the whole process in MiB, at its largest from set-up to the last step."""
    base = ceil(resident_mib / _STEP) * _STEP + _RUNTIME + _data(cfg, sizes) + _workers(cfg, sizes)
    return ceil(base + _SLACK * max(_set_up(cfg, sizes), _training(cfg, sizes, chunk, segment)) / _MIB)


def model_sizes(cfg: DictConfig, spec: InputSpec) -> ModelSizes:
    """Sizes of the model that `cfg` names, by a forward pass of the library's own model on `meta`, without weights."""
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
    """Per block the numbers of its input per image, and its width."""
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
    """MiB of data in memory: files are read, and synthetic images made, when their turn comes."""
    data = cfg.dataset
    if data.name != "synthetic":
        return _ARRAYS_MIB.get(data.name, 0)
    splits = 2 if data.val_source == "test" else 3
    return splits * CLASSES * 4 * sizes.image / _MIB  # a pattern per class in each split


def _workers(cfg: DictConfig, sizes: ModelSizes) -> float:
    """MiB of processes that load data, for training and for validation, and what they keep of this one's past."""
    each = _WORKER + _PHOTO
    count = cfg.dataset.num_workers or 0
    return 2 * count * each + (_kept_weights(cfg, sizes) + _trained(cfg, sizes)) / _MIB if count else 0


def _set_up(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes: a layer in the making beside those made, or before, while weights are mapped, images in the model."""
    largest = max(o * i for o, i in sizes.scope)
    smaller = max(min(o, i) for o, i in sizes.scope)
    factoring = 8 * (largest + 4 * smaller**2) + 4 * largest
    moments = _moments(cfg, sizes)
    batch, looking = cfg.dataset.batch_size, moments
    if cfg.method.get("activations") is not None or moments:  # in float64 what one layer is shown
        looking += 4 * batch * (sizes.image + 2 * sizes.passing + 2 * sizes.widest) + 8 * batch * sizes.widest
        looking += 4 * sizes.largest_block
    if moments:  # a chunk inside a block, and what it keeps between blocks
        looking += 4 * min(CHUNK, batch) * (2 * max(sizes.blocks) + sizes.passing * len(sizes.blocks))
    return max(_kept_weights(cfg, sizes) + factoring + moments, 4 * sizes.rest + looking)


def _moments(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes of all layers' second moments, with those of a layer in the making; 0 where none are taken."""
    method = cfg.method
    narrow = [8 * min(o, i) ** 2 for o, i in sizes.scope]  # of outputs or inputs, in float64
    found = 0.0
    if method.get("init") == "features" or method.get("weight_allocation") == "sensitivity":
        found = 2 * (_in_memory(narrow) + 2 * max(narrow))
    elif method.get("init") == "output":
        found = _in_memory(narrow) + 3 * max(narrow)
    if "keep_ratio" in method:  # SVD-LLM: of the inputs
        of_inputs = [4 * i * i for _, i in sizes.scope]
        found += _in_memory(of_inputs) + 9 * max(of_inputs)
    return found


def _in_memory(sums: list[int]) -> int:
    """Bytes of all `sums` over data that are not kept in a file; what one of them takes meanwhile is no part of it."""
    return sum(size for size in sums if size < SUMS_FROM)


def _training(cfg: DictConfig, sizes: ModelSizes, chunk: int, segment: int) -> float:
    """Bytes: weights, gradients, optimizer state, and one after another what segments keep of the batch with a chunk
    inside one of them, what the update makes, and an image file that is read for the next step."""
    batch, storage = cfg.dataset.batch_size, 4 if cfg.train.storage == "float32" else 2
    held = cfg.train.micro_batch_size or batch
    segments = len(segment_lengths(len(sizes.blocks), segment))
    kept = held * (sizes.passing * (storage * (segments + 1) + 4 * 2) + 2 * sizes.image)
    inside = _HOLES * 4 * min(chunk, held) * (segment + 0.5) * max(sizes.blocks)
    stays = _kept_weights(cfg, sizes) + _trained(cfg, sizes) + _preconditioners(cfg, sizes)
    return stays + max(kept + inside, _update(cfg, sizes), _photo(cfg))


def _kept_weights(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes of parameters after the method has been applied."""
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
    if kind in ("galore", "apollo"):  # two moments of the projected gradient, and the projection; of the rest AdamW's
        projected = sum(optimizer.rank * (2 * max(o, i) + min(o, i)) for o, i in sizes.scope)
        return 4 * (rest + trained + 2 * rest + projected)
    if kind == "Swan":  # whose momentum is the gradient; of the rest AdamW's
        return 4 * (rest * 3 + trained)
    states = 1 if optimizer.get("momentum") else 2 if kind.startswith("Adam") or kind == "adamw8bit" else 0
    return 4 * (rest + trained) * (1 + states)


def _update(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes of steps in coordinates, of all layers until they are folded, where gradients or momentum stay beside."""
    kind = str(cfg.optimizer["_target_"]).rpartition(".")[2]
    beside = _in_coordinates(cfg, kind) and (kind == "SGD" or cfg.optimizer.get("momentum"))
    return 4 * sum(_layer(cfg, o, i) * o / (o + i) for o, i in sizes.scope) if beside else 0


def _preconditioners(cfg: DictConfig, sizes: ModelSizes) -> float:
    """Bytes of `FactoredLinear.B`, `K x r` with `r <= K`, where it stays from step to step."""
    kind = str(cfg.optimizer["_target_"]).rpartition(".")[2]
    if cfg.method.get("preconditioner") != "basis" or not _in_coordinates(cfg, kind):
        return 0
    return 4 * sum((_layer(cfg, o, i) / (o + i)) ** 2 for o, i in sizes.scope)


def _photo(cfg: DictConfig) -> float:
    """Bytes of an image file that this process reads itself."""
    files = cfg.dataset.name not in (*_ARRAYS_MIB, "synthetic")
    return _PHOTO * _MIB if files and not cfg.dataset.num_workers else 0


def _in_coordinates(cfg: DictConfig, kind: str) -> bool:
    """Whether a step is on coordinates (`FactoredLinear.C`), which are no more numbers than `L`, not on the factors."""
    subspace = cfg.method.get("activations") is not None and cfg.method.get("update") == "subspace"
    return subspace and _is_factored(cfg) and (kind == "Swan" or kind == "SGD" and not cfg.optimizer.get("momentum"))


def _layer(cfg: DictConfig, outputs: int, inputs: int) -> float:
    """Numbers that a layer of the scope holds."""
    adapter = _adapter_rank(cfg) * (outputs + inputs)
    if not _is_factored(cfg):
        return outputs * inputs + adapter
    asked = cfg.method.get("parameter_ratio") or cfg.method.get("keep_ratio")
    full = 1 + min(outputs, inputs) / max(outputs, inputs)  # the share that factors of full rank take
    return min(asked or _share(cfg.method.weight_epsilon, full), full) * outputs * inputs + adapter


def _adapter_rank(cfg: DictConfig) -> int:
    """`k` of adapters that have at most `k (outputs + inputs)` numbers; 0 for a method without adapters.

    Of peft's tuners that bounds OFT's and BOFT's blocks of `k x k` too, VeRA's shared matrices, and IA3's vectors.
    SVD-LLM, with an adapter on each factor of rank `K`, has `2 k K` more, a small part of what `_SLACK` allows for.
    """
    method = cfg.method
    if "lora_rank" not in method:
        return 0
    rank = method.lora_rank or method.get("block_size") or null_means(method.name).get("lora_rank", 0)
    return max(method.get("init_rank") or 0, ceil(1.5 * rank)) if method.get("type") == "adalora" else rank


def _is_factored(cfg: DictConfig) -> bool:
    return cfg.method.get("weight_epsilon") is not None and cfg.method.get("update") != "svd"


def _share(epsilon: float, full: float) -> float:
    """Of a dense weight's numbers, what factors at `epsilon` take: straight between a pretrained ViT-B/32's."""
    known = [(0.0, 0.0), *zip(ENERGY, KEPT, strict=True), (1.0, full)]
    for (low, less), (high, more) in pairwise(known):
        if epsilon <= high:
            return less + (more - less) * (epsilon - low) / (high - low)
    return full
