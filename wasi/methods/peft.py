"""Adapters of Hugging Face's peft (https://github.com/huggingface/peft) on the linear layers of `scope`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import count, islice
from typing import Any

import torch
from torch import Tensor, nn

from wasi.config.declared import null_values
from wasi.errors import UserError
from wasi.layers.peft_linear import PeftLinear
from wasi.methods.adalora import RankBudget, distance_from_orthogonal
from wasi.methods.method import Method
from wasi.methods.scope import check_adapter_rank, replace_each, scope_linears
from wasi.models.modes import eval_mode
from wasi.models.structure import head_module
from wasi.optional import optional

# method.type -> peft's configuration class, its names of the options that the type has, and values that are fixed.
_LORA = {"lora_rank": "r", "lora_alpha": "lora_alpha"}
_TYPES: dict[str, tuple[str, dict[str, str], dict[str, Any]]] = {
    "lora": ("LoraConfig", _LORA, {}),
    "dora": ("LoraConfig", _LORA, {"use_dora": True}),
    "rslora": ("LoraConfig", _LORA, {"use_rslora": True}),
    "pissa": ("LoraConfig", _LORA, {"init_lora_weights": "pissa"}),
    "olora": ("LoraConfig", _LORA, {"init_lora_weights": "olora"}),
    "eva": ("LoraConfig", _LORA, {"init_lora_weights": "eva"}),
    "corda": ("LoraConfig", _LORA, {"init_lora_weights": "corda"}),
    "adalora": (
        "AdaLoraConfig",
        {"lora_rank": "target_r", "lora_alpha": "lora_alpha", "init_rank": "init_r"}
        | {name: name for name in ("tinit", "tfinal", "orth_reg_weight")},
        {},
    ),
    "vera": ("VeraConfig", {"lora_rank": "r"}, {}),
    "ia3": ("IA3Config", {}, {"feedforward_modules": []}),
    "oft": ("OFTConfig", {"block_size": "oft_block_size"}, {"r": 0}),
    "boft": ("BOFTConfig", {"block_size": "boft_block_size"}, {}),
}
# Types that are initialised from calibration data -> module and class of their options in peft.
_STARTS = {"eva": ("peft", "EvaConfig"), "corda": ("peft.tuners.lora.config", "CordaConfig")}
_MOST_PASSES = 100  # of EVA over a calibration batch; it usually takes a few
# Options that only some types have.
_OF_SOME = ("lora_rank", "lora_alpha", "block_size", "init_rank", "tinit", "tfinal", "orth_reg_weight")


@dataclass
class Peft(Method):
    """Adds one of peft's tuners to each linear layer of `scope`, whose weights are frozen; the head trains.

    Args:
        train_rest: whether the parameters outside `scope` train too.
        type: the tuner, a key of `_TYPES`.
        lora_rank, lora_alpha: of LoRA and its variants, the rank also of VeRA; None means 8 and 16. With AdaLoRA the
            rank is the mean over the layers at the end of training.
        block_size: of the orthogonal blocks of OFT and BOFT, a divisor of each layer's width; None means 8.
        calibration_batches: number of training batches from which EVA and CorDA are initialised.
        seed: of the adapters' initialisation.
        merge: whether inference is measured with the adapters merged into the weights, by peft.
        init_rank: of every layer when AdaLoRA starts; None means one and a half times `lora_rank`.
        tinit, tfinal: steps before AdaLoRA's rank budget begins to fall, and steps after it has fallen; None means a
            tenth and half of all steps.
        orth_reg_weight: weight of AdaLoRA's orthogonality penalty; None means 0.5. The penalty contributes to the
            gradient, but not to the reported loss, which stays comparable with that of other methods.

    Raises:
        UserError: an unknown `type`, an option that the type does not have, or an `init_rank` that is not above
            `lora_rank`.
    """

    appearance = {
        "peft": {
            "order": 6, "colour": "#56B4E9", "marker": "P",
            "about": "frozen weights, and beside them an adapter of Hugging Face's peft",
        },
    }  # fmt: skip
    null_means = {
        "peft": {
            "lora_rank": 8, "lora_alpha": 16, "block_size": 8, "orth_reg_weight": 0.5,
            "init_rank": (1.5, "lora_rank"),
        },
    }  # fmt: skip

    name: str
    scope: str
    train_rest: bool
    type: str
    lora_rank: int | None
    lora_alpha: float | None
    block_size: int | None
    calibration_batches: int
    seed: int
    merge: bool = True
    init_rank: int | None = None
    tinit: int | None = None
    tfinal: int | None = None
    orth_reg_weight: float | None = None

    def __post_init__(self) -> None:
        if self.type not in _TYPES:
            raise UserError("method.type", self.type, ", ".join(_TYPES))
        for option in _OF_SOME:
            if getattr(self, option) is not None and option not in _TYPES[self.type][1]:
                takes = [name for name, (_, options, _) in _TYPES.items() if option in options]
                allowed = f"null with method.type={self.type}; it goes with {', '.join(takes)}"
                raise UserError(f"method.{option}", getattr(self, option), allowed)
        if self.init_rank is not None and self.init_rank <= self._of_type("lora_rank"):
            allowed = f"above method.lora_rank={self._of_type('lora_rank')}, the mean rank at the end"
            raise UserError("method.init_rank", self.init_rank, allowed)
        self._peft = optional("peft", "method", self.name)

    def apply(self, model: nn.Module, calibration) -> nn.Module:
        linears = scope_linears(model, self.scope)
        trained = [p for p in model.parameters() if p.requires_grad] if self.train_rest else []
        for option in ("lora_rank", "init_rank"):
            if option in _TYPES[self.type][1]:
                check_adapter_rank(self._of_type(option), linears, option)
        if "block_size" in _TYPES[self.type][1]:
            _check_block_size(self._of_type("block_size"), linears)
        weights = {id(linear.weight) for linear in linears.values()}
        images = islice(calibration, self.calibration_batches) if self.type in _STARTS else ()
        device = next(model.parameters()).device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            torch.manual_seed(self.seed)  # peft draws from the global generator
            self._inject(model, self._config(list(linears)), [x.to(device) for x, _ in images])
        tuned = {id(linear): model.get_submodule(name) for name, linear in reversed(linears.items())}
        layers = {name: tuned[id(linear)] for name, linear in linears.items()}
        layers = {name: layer for name, layer in layers.items() if hasattr(layer, "base_layer")}  # EVA skips some
        replace_each(model, layers, lambda _, layer: PeftLinear(layer, _numbers_per_token(layer)))
        for parameter in [*head_module(model).parameters(), *trained]:  # peft freezes all but its adapters
            parameter.requires_grad_(id(parameter) not in weights)
        return model

    def wrap_step(self, step):
        """Add rank allocation and orthogonality penalty of AdaLoRA; other types leave the step unchanged.

        Raises:
            UserError: AdaLoRA with the optimizer `swan`, which does not keep gradients.
        """
        if self.type != "adalora":
            return step
        if hasattr(step.optimizer, "step_matrices"):  # it frees gradients before AdaLoRA's hook could read them
            raise UserError("optimizer", "swan", "one that keeps gradients, such as adamw, with method.type=adalora")
        RankBudget(self._tuner, step, self.tinit, self.tfinal)
        weight = self._of_type("orth_reg_weight")
        step.penalties.append(lambda: weight * distance_from_orthogonal(step.model))
        return step

    def step_parts(self) -> dict[str, list[tuple[object, str]]]:
        parts: dict[str, list[tuple[object, str]]] = {"factor_algebra": [(PeftLinear, "forward")]}
        return parts | ({"decomposition": [(RankBudget, "allocate")]} if self.type == "adalora" else {})

    def _of_type(self, option: str) -> Any:
        """Return the option's value, or what null stands for (`null_means`)."""
        value = getattr(self, option)
        return null_values("peft", vars(self)).get(option) if value is None else value

    def _inject(self, model: nn.Module, config: Any, images: list[Tensor]) -> None:
        """Replace the target layers of `config` in place by peft's; `images` initialise those of EVA and CorDA."""
        if self.type == "corda":
            _observe_for_corda(model, config, images)
        tuned = self._peft.get_peft_model(model, config)
        if self.type == "adalora":
            self._tuner = tuned.base_model
        if self.type == "eva":
            self._peft.initialize_lora_eva_weights(
                tuned,
                images,
                forward_fn=_limited_forward(),
                prepare_model_inputs_fn=None,
                prepare_layer_inputs_fn=lambda args, *_: args[0].flatten(0, -2).contiguous(),  # peft takes a view of it
                show_progress_bar=False,
            )

    def _config(self, targets: list[str]) -> Any:
        """Return peft's configuration for the layers named `targets`."""
        kind, options, fixed = _TYPES[self.type]
        given = {theirs: self._of_type(ours) for ours, theirs in options.items()}
        if self.type == "adalora":
            given |= {"tinit": 0, "tfinal": 0, "total_step": 1}  # until `RankBudget` sets them in training
        if self.type == "vera":
            given["projection_prng_key"] = self.seed
        if self.type in _STARTS:
            module, config = _STARTS[self.type]
            given[f"{self.type}_config"] = getattr(optional(module, "method.type", self.type), config)()
        return getattr(self._peft, kind)(target_modules=targets, **fixed, **given)


def _limited_forward() -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a forward pass for EVA, which repeats its batches until the principal components of all inputs converge.

    They may never do where a layer has fewer inputs than components, or nearly equal ones, as in class attention.

    Raises:
        UserError: by the returned function, when it has been called `_MOST_PASSES` times.
    """
    passes = count()

    def run(model: nn.Module, images: Tensor) -> Tensor:
        if next(passes) >= _MOST_PASSES:
            fault = f"principal components of its inputs did not converge in {_MOST_PASSES} batches"
            raise UserError("method.type", "eva", f"another type, such as pissa, for this model; {fault}")
        return model(images)

    return run


def _check_block_size(size: int, linears: Mapping[str, nn.Linear]) -> None:
    """Raise UserError for a size that does not divide the width of every layer: BOFT fails, and OFT takes another."""
    for name, linear in linears.items():
        if linear.in_features % size:
            allowed = f"a divisor of every width in scope; {name} has {linear.in_features} inputs"
            raise UserError("method.block_size", size, allowed)


def _observe_for_corda(model: nn.Module, config: Any, images: list[Tensor]) -> None:
    """Run `images` through the model one by one, from which peft collects the input covariances that CorDA needs.

    Raises:
        UserError: a linear layer's input is not a sequence of tokens, which is all that peft's code supports.
    """
    corda = optional("peft.tuners.lora.corda", "method.type", "corda")

    def run() -> None:
        for batch in images:
            for image in batch.split(1):
                model(image)

    with eval_mode(model):
        try:
            corda.preprocess_corda(model, config, run_model=run)
        except RuntimeError as error:
            allowed = f"eva or pissa for a model whose linears see more than sequences of tokens ({error})"
            raise UserError("method.type", "corda", allowed) from error


def _numbers_per_token(layer: Any) -> int:
    """Return what a low-rank adapter saves per token beside the input: its rank; 0 for other kinds of adapter."""
    return layer.r["default"] if hasattr(layer, "lora_A") or hasattr(layer, "vera_A") else 0
