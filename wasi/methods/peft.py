"""Adapters of Hugging Face's peft (https://github.com/huggingface/peft) on the linears of `scope`."""

from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from wasi.config.declared import null_values
from wasi.errors import UserError
from wasi.layers.peft_linear import PeftLinear
from wasi.methods.adalora import RankBudget, distance_from_orthogonal
from wasi.methods.method import Method
from wasi.methods.scope import check_adapter_rank, replace_each, scope_linears
from wasi.models.modes import evaluating
from wasi.models.structure import head_module
from wasi.optional import optional

# What peft calls our options where a tuner has them, and what a type sets.
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
# Types that start from calibration data, and where peft has their options.
_STARTS = {"eva": ("peft", "EvaConfig"), "corda": ("peft.tuners.lora.config", "CordaConfig")}
# Options that not every type has.
_OF_SOME = ("lora_rank", "lora_alpha", "block_size", "init_rank", "tinit", "tfinal", "orth_reg_weight")


@dataclass
class Peft(Method):
    """A tuner of peft on each linear of `scope`; the head trains, the rest by option.

    Args:
        type: of the tuner, a key of `_TYPES`.
        lora_rank, lora_alpha: of LoRA and its variants, the rank also of VeRA; None = 8 and 16. With AdaLoRA the
            rank is the mean over the linears at the end of training.
        block_size: of the orthogonal blocks of OFT and BOFT, a divisor of each linear's width; None = 8.
        calibration_batches: training batches whose inputs decide where EVA and CorDA start.
        seed: of the adapters' start.
        merge: into the weights, as peft does it, for inference.
        init_rank: of every linear when AdaLoRA begins; None = one and a half times `lora_rank`.
        tinit, tfinal: steps before AdaLoRA's budget of ranks begins to fall, and steps after it has fallen; None = a
            tenth and a half of all steps.
        orth_reg_weight: of the distance of AdaLoRA's `A` and `B` from orthonormal ones in the loss; None = 0.5. It
            is in the gradient, not in the loss that is reported, which stays comparable with that of other methods.
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
        if self.lora_rank is not None and "lora_rank" in _TYPES[self.type][1]:
            check_adapter_rank(self.lora_rank, linears)
        weights = {id(linear.weight) for linear in linears.values()}
        images = islice(calibration, self.calibration_batches) if self.type in _STARTS else ()
        device = next(model.parameters()).device
        with torch.random.fork_rng():
            torch.manual_seed(self.seed)  # peft draws from the global generator
            self._inject(model, self._config(list(linears)), [x.to(device) for x, _ in images])
        tuned = {id(linear): model.get_submodule(name) for name, linear in reversed(linears.items())}
        layers = {name: tuned[id(linear)] for name, linear in linears.items()}
        layers = {name: layer for name, layer in layers.items() if hasattr(layer, "base_layer")}  # EVA spares some
        replace_each(model, layers, lambda _, layer: PeftLinear(layer, _numbers_per_token(layer)))
        for parameter in [*head_module(model).parameters(), *trained]:  # peft freezes all but its adapters
            parameter.requires_grad_(id(parameter) not in weights)
        return model

    def wrap_step(self, step):
        if self.type != "adalora":
            return step
        if hasattr(step.optimizer, "step_matrices"):  # whose gradients are gone when its step is over
            raise UserError("optimizer", "swan", "one that keeps gradients, such as adamw, with method.type=adalora")
        RankBudget(self._tuner, step, self.tinit, self.tfinal)
        weight = self._of_type("orth_reg_weight")
        step.penalties.append(lambda: weight * distance_from_orthogonal(step.model))
        return step

    def step_parts(self) -> dict[str, list[tuple[object, str]]]:
        parts: dict[str, list[tuple[object, str]]] = {"factor_algebra": [(PeftLinear, "forward")]}
        return parts | ({"decomposition": [(RankBudget, "allocate")]} if self.type == "adalora" else {})

    def _of_type(self, option: str) -> Any:
        value = getattr(self, option)
        return null_values("peft", vars(self)).get(option) if value is None else value

    def _inject(self, model: nn.Module, config: Any, images: list[Tensor]) -> None:
        """Replace the targets of `config` in place by peft's layers; those that start from data see `images`."""
        if self.type == "corda":
            _observe_for_corda(model, config, images)
        tuned = self._peft.get_peft_model(model, config)
        if self.type == "adalora":
            self._tuner = tuned.base_model
        if self.type == "eva":
            self._peft.initialize_lora_eva_weights(
                tuned,
                images,
                forward_fn=lambda whole, batch: whole(batch),
                prepare_model_inputs_fn=None,
                prepare_layer_inputs_fn=lambda args, *_: args[0].flatten(0, -2),
                show_progress_bar=False,
            )

    def _config(self, targets: list[str]) -> Any:
        kind, options, fixed = _TYPES[self.type]
        given = {theirs: self._of_type(ours) for ours, theirs in options.items()}
        if self.type == "adalora":
            given |= {"tinit": 0, "tfinal": 0, "total_step": 1}  # the real ones are known when training begins
        if self.type == "vera":
            given["projection_prng_key"] = self.seed
        if self.type in _STARTS:
            module, config = _STARTS[self.type]
            given[f"{self.type}_config"] = getattr(optional(module, "method.type", self.type), config)()
        return getattr(self._peft, kind)(target_modules=targets, **fixed, **given)


def _observe_for_corda(model: nn.Module, config: Any, images: list[Tensor]) -> None:
    """CorDA's covariances of inputs, which peft takes from one sequence of tokens at a time."""
    corda = optional("peft.tuners.lora.corda", "method.type", "corda")

    def run() -> None:
        for batch in images:
            for image in batch.split(1):
                model(image)

    with evaluating(model):
        try:
            corda.preprocess_corda(model, config, run_model=run)
        except RuntimeError as error:
            allowed = f"eva or pissa for a model whose linears see more than sequences of tokens ({error})"
            raise UserError("method.type", "corda", allowed) from error


def _numbers_per_token(layer: Any) -> int:
    """The rank of a low-rank adapter, 0 for an adapter of another kind."""
    return layer.r["default"] if hasattr(layer, "lora_A") or hasattr(layer, "vera_A") else 0
