"""Helpers of methods: find the linear layers in scope, replace them, check options, and freeze the rest."""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from torch import nn

from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.models.attention import unpack_attention
from wasi.models.mapped import release_pages
from wasi.models.structure import head_module, linear_sites

Layer = TypeVar("Layer", bound=nn.Module)


def scope_linears(model: nn.Module, scope: str) -> dict[str, nn.Linear]:
    """Return name -> `nn.Linear` of all layers of `scope` inside the transformer blocks.

    If attention is in scope, modules that hold packed projection weights are first replaced, in place, by ones that
    call linear layers (`unpack_attention`).

    Raises:
        UserError: the scope is unknown, no layer is in it, or a method has already replaced one of them.
    """
    if scope != "mlp":
        unpack_attention(model)
    for site in linear_sites(model, scope):
        if isinstance(layer := model.get_submodule(site.name), LowRankLayer):
            fault = f"{site.name} is already replaced by {type(layer).__name__}"
            raise UserError("method.scope", scope, "a scope in which no method has replaced layers", fault)
    return {site.name: cast(nn.Linear, model.get_submodule(site.name)) for site in linear_sites(model, scope)}


def check_weights(linears: Mapping[str, nn.Linear]) -> None:
    """Raise a UserError that names the first layer with a zero or non-finite weight, if there is one."""
    for name, linear in linears.items():
        if not linear.weight.isfinite().all() or not linear.weight.any():
            raise UserError("model.weights", f"({name})", "a layer whose weight is finite and not zero")
        release_pages([linear.weight])


def replace_each(
    model: nn.Module, linears: dict[str, Layer], make: Callable[[str, Layer], nn.Module]
) -> None:
    """Replace each of `linears` in `model` by `make(name, linear)`, called once for a module with two names.

    Layers are replaced one at a time and removed from `linears`, so that a dense weight is freed once the last layer
    that uses it is replaced. `make` must not keep a reference to the layer that it is given.
    """
    made: dict[int, nn.Module] = {}  # by id of the linear, which `linears` keeps alive while it has another name
    for name in list(linears):
        linear = linears.pop(name)
        if id(linear) not in made:
            made[id(linear)] = make(name, linear).train(linear.training)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[id(linear)])
        del linear


def check_adapter_options(rank: int | None, alpha: float | None) -> None:
    """Raise UserError for a rank or alpha that is null: only `method=peft` has a default for it."""
    for option, value in (("lora_rank", rank), ("lora_alpha", alpha)):
        if value is None:
            raise UserError(f"method.{option}", "null", "a number above 0; null goes with method=peft")


def check_adapter_rank(rank: int, linears: Mapping[str, nn.Linear], option: str = "lora_rank") -> None:
    """Raise UserError, of `method.OPTION`, for a rank above the largest possible one of all `linears`."""
    largest = max(min(linear.weight.shape) for linear in linears.values())
    if rank > largest:
        raise UserError(f"method.{option}", rank, f"at most {largest}, the largest rank of a weight in scope")


def freeze_rest(model: nn.Module) -> None:
    """Freeze all parameters but the head's and those of low-rank layers, which freeze their own as they need.

    The bias of a low-rank layer is kept trainable only if its class says so (`LowRankLayer.trains_bias`).
    """
    keep = {id(p) for p in head_module(model).parameters()}
    for layer in model.modules():
        if isinstance(layer, LowRankLayer):
            keep |= {id(p) for name, p in layer.named_parameters() if name != "bias" or layer.trains_bias}
    for parameter in model.parameters():
        if id(parameter) not in keep:
            parameter.requires_grad_(False)
