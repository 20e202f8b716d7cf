"""Rules about combinations of options; `validate.py` has those about single options."""

from collections.abc import Callable

from wasi.config import objectives
from wasi.config.declared import reference
from wasi.config.levels import measure_level

_WITHOUT_MATRICES = ("linear_probe", "bitfit")  # methods that train no matrix but the head's
_PEFT = "wasi.methods.peft.Peft"
_LAYERS_OF_LORA = ("lora", "rslora", "pissa", "olora", "eva", "corda")  # differ only in scaling and initialisation

# Options, a predicate over their values in this order, and what is allowed for the last, which the error names.
Rule = tuple[tuple[str, ...], Callable[..., bool], str]


def _goes_with(chosen: str, value: str, option: str, nothing: str | None = None, what: str = "it") -> Rule:
    """Return the rule that `option` has another value than `nothing` only where the option `chosen` has this `value`.

    Args:
        what: the subject of "goes with" in the message.
    """
    allowed = f"{'null' if nothing is None else nothing} with {chosen}={{}}; {what} goes with {value}"
    return (chosen, option), lambda found, given: given == nothing or found == value, allowed


def _excludes(chosen: str, option: str, words: str, nothing: str | None = None) -> Rule:
    """Return the rule that `option` is false where the option `chosen` has another value than `nothing`.

    Args:
        words: what follows the value of `chosen` in the message, such as the reason.
    """
    return (chosen, option), lambda found, given: not given or found == nothing, f"false with {chosen}={{}}{words}"


TOGETHER: list[Rule] = [
    (
        ("dataset.batch_size", "train.micro_batch_size"),
        lambda batch, micro: micro is None or batch % micro == 0,
        "a divisor of dataset.batch_size={}, or null",
    ),
    (
        ("rank.activation_selection", "rank.activation_ranks"),
        lambda selection, ranks: ranks is not None or selection != "fixed",
        "a list with one rank per mode, as rank.activation_selection={}",
    ),
    _goes_with("rank.activation_selection", "fixed", "rank.activation_ranks", what="a list"),
    *(
        _goes_with("train.memory", "lean", f"train.{option}")
        for option in ("chunk_size", "chunk_mib", "segment_size", "storage", "memory_budget_mib")
    ),
    (
        ("train.memory", "train.gradient_checkpointing"),
        lambda memory, checkpointing: not (checkpointing and memory == "lean"),
        "false with train.memory={}, which repeats blocks itself",
    ),
    *(
        _goes_with("rank.activation_selection", "perplexity", f"rank.{option}")
        for option in ("perplexity_ceiling", "memory_budget_mib", "perplexity_table")
    ),
    _goes_with("rank.activation_selection", "epsilon", "rank.token_epsilon"),
    (
        ("rank.activation_selection", "rank.batch_mode"),
        lambda selection, mode: mode == "whole" or selection != "fixed",
        "whole with rank.activation_selection={}, whose list has a rank for the batch mode",
    ),
    (
        ("rank.perplexity_ceiling", "rank.memory_budget_mib"),
        lambda ceiling, budget: ceiling is None or budget is None,
        "null with rank.perplexity_ceiling={}; one of them is the bound",
    ),
    _goes_with("method.init", "features", "rank.weight_allocation", "epsilon", "sensitivity"),
    _goes_with("rank.weight_allocation", "sensitivity", "rank.parameter_ratio"),
    (
        ("method.activations", "method.update"),
        lambda activations, update: activations is None or update != "svd",
        "subspace or none for a method that compresses saved inputs; svd goes with wsi",
    ),
    _goes_with("method.update", "subspace", "method.preconditioner", "step", "basis"),
    (
        ("optimizer._target_", "method.preconditioner"),
        lambda optimizer, when: when == "step" or optimizer.endswith((".Swan", ".SGD")),
        "step, unless optimizer=swan or sgd: others step on the factors",
    ),
    (
        ("optimizer._target_", "optimizer.momentum", "method.preconditioner"),
        lambda optimizer, momentum, when: when == "step" or momentum == 0 or optimizer.endswith(".Swan"),
        "step with optimizer.momentum={1} of sgd, which steps on the factors then",
    ),
    (
        ("dataset.val_source", "dataset.test_size"),
        lambda source, size: size is None or source == "train",
        "null with dataset.val_source={}; dataset.val_size is the size of both",
    ),
    (
        ("train.select", "dataset.val_source"),
        lambda select, source: select == "last" or source == "train",
        "train with train.select={}: an epoch must not be chosen on test images",
    ),
    (
        ("train.measure", "tune.objectives"),
        lambda measure, names: measure_level(measure) != "none" or not any(map(objectives.is_measured, names)),
        "of validation alone with train.measure={}",
    ),
    (
        ("train.measure", "tune.objectives"),
        lambda measure, names: measure_level(measure) != "fast" or set(names).isdisjoint(objectives.OF_A_PROCESS),
        f"without {' and '.join(objectives.OF_A_PROCESS)} with train.measure={{}}: they need full",
    ),
    (
        ("train.epochs", "scheduler.warmup_epochs"),
        lambda epochs, warmup: warmup <= epochs,
        "at most train.epochs={}",
    ),
    (
        ("optimizer._target_", "train.step_in_backward"),
        lambda optimizer, in_backward: not in_backward or optimizer.endswith(".Swan"),
        "false, unless optimizer=swan",
    ),
    (
        ("method.name", "optimizer._target_"),
        lambda method, optimizer: not (method in _WITHOUT_MATRICES and optimizer.endswith(".Swan")),
        "another than optimizer=swan with method.name={}, which trains no matrix that it could whiten",
    ),
    (
        ("method.name", "train.gradient_checkpointing"),
        lambda method, checkpointing: not (checkpointing and method == "linear_probe"),
        "false with method.name={}, which has no backward pass through blocks",
    ),
    _excludes(
        "train.micro_batch_size", "train.step_in_backward", ": a gradient is complete only after the last of them"
    ),
    _excludes("train.on_oom", "train.step_in_backward", ", which makes micro-batches", "fail"),
    _excludes(
        "method.base", "device.compile", ": a compiler cannot follow weights that are dequantised where they are needed"
    ),
    (
        ("method._target_", "method.type", "device.compile"),
        lambda method, kind, compiled: not compiled or method != _PEFT or kind in _LAYERS_OF_LORA,
        f"false with method.type={{1}}; of peft's adapters {', '.join(_LAYERS_OF_LORA)} can be compiled",
    ),
    _excludes("train.memory_budget_mib", "device.compile", ": what a compiler takes cannot be told beforehand"),
    (
        ("optimizer.scale_type", "optimizer.proj_type"),
        lambda scaling, projected: scaling == "tensor" or projected == "std",
        "std with optimizer.scale_type={}, as apollo-torch has a gradient's channels along its longer side; others go "
        "with tensor",
    ),
    (
        ("bench.baseline", "bench.baseline_recipe"),
        lambda baseline, recipe: recipe is None or baseline == reference(),
        "null with bench.baseline={}: one of them says what to compare with",
    ),
    (
        ("bench.fit", "device.compile"),
        lambda fit, compiled: not compiled or fit is None,
        "false with experiment=fit, whose predictions are of steps that are not compiled",
    ),
    (
        ("optimizer.momentum", "optimizer.dampening"),
        lambda momentum, dampening: dampening == 0 or momentum > 0,
        "0, unless optimizer.momentum={} is above 0",
    ),
    (
        ("optimizer.momentum", "optimizer.dampening", "optimizer.nesterov"),
        lambda momentum, dampening, nesterov: not nesterov or (momentum > 0 and dampening == 0),
        "false, unless optimizer.momentum={} is above 0 and optimizer.dampening={} is 0",
    ),
]
