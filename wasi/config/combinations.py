"""Rules about combinations of options; `validate.py` has those about single options."""

from collections.abc import Callable

from wasi.config import objectives
from wasi.config.declared import reference
from wasi.config.levels import measure_level

_WITHOUT_MATRICES = ("linear_probe", "bitfit")  # methods that train no matrix but the head's
_LAYERS_OF_LORA = ("lora", "rslora", "pissa", "olora", "eva", "corda")  # differ only in scaling and initialisation

# Options, a predicate over their values in this order, and what is allowed for the last, which the error names.
TOGETHER: list[tuple[tuple[str, ...], Callable[..., bool], str]] = [
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
    (
        ("rank.activation_selection", "rank.activation_ranks"),
        lambda selection, ranks: ranks is None or selection == "fixed",
        "null with rank.activation_selection={}; a list goes with fixed",
    ),
    *[
        (
            ("train.memory", f"train.{option}"),
            lambda memory, value: value is None or memory == "lean",
            "null with train.memory={}; it goes with lean",
        )
        for option in ("chunk_size", "chunk_mib", "segment_size", "storage", "memory_budget_mib")
    ],
    (
        ("train.memory", "train.gradient_checkpointing"),
        lambda memory, checkpointing: not (checkpointing and memory == "lean"),
        "false with train.memory={}, which repeats blocks itself",
    ),
    *(
        (
            ("rank.activation_selection", f"rank.{option}"),
            lambda selection, value: value is None or selection == "perplexity",
            "null with rank.activation_selection={}; it goes with perplexity",
        )
        for option in ("perplexity_ceiling", "memory_budget_mib", "perplexity_table")
    ),
    (
        ("rank.activation_selection", "rank.token_epsilon"),
        lambda selection, epsilon: epsilon is None or selection == "epsilon",
        "null with rank.activation_selection={}; it goes with epsilon",
    ),
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
    (
        ("method.init", "rank.weight_allocation"),
        lambda init, allocation: init == "features" or allocation == "epsilon",
        "epsilon with method.init={}; sensitivity goes with features",
    ),
    (
        ("rank.weight_allocation", "rank.parameter_ratio"),
        lambda allocation, ratio: ratio is None or allocation == "sensitivity",
        "null with rank.weight_allocation={}; it goes with sensitivity",
    ),
    (
        ("method.activations", "method.update"),
        lambda activations, update: activations is None or update != "svd",
        "subspace or none for a method that compresses saved inputs; svd goes with wsi",
    ),
    (
        ("method.update", "method.preconditioner"),
        lambda update, when: when == "step" or update == "subspace",
        "step with method.update={}; basis goes with subspace",
    ),
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
    (
        ("train.micro_batch_size", "train.step_in_backward"),
        lambda size, in_backward: not in_backward or size is None,
        "false with train.micro_batch_size={}: a gradient is complete only after the last of them",
    ),
    (
        ("train.on_oom", "train.step_in_backward"),
        lambda on_oom, in_backward: not in_backward or on_oom == "fail",
        "false with train.on_oom={}, which makes micro-batches",
    ),
    (
        ("method.base", "device.compile"),
        lambda base, compiled: not compiled or base is None,
        "false with method.base={}: a compiler cannot follow weights that are dequantised where they are needed",
    ),
    (
        ("method._target_", "method.type", "device.compile"),
        lambda method, kind, compiled: not compiled or not method.endswith(".Peft") or kind in _LAYERS_OF_LORA,
        f"false with method.type={{1}}; of peft's adapters {', '.join(_LAYERS_OF_LORA)} can be compiled",
    ),
    (
        ("train.memory_budget_mib", "device.compile"),
        lambda budget, compiled: not compiled or budget is None,
        "false with train.memory_budget_mib={}: what a compiler takes cannot be told beforehand",
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
