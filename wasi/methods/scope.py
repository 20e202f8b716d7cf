"""Which linear layers a method replaces, replacing them, and what trains afterwards."""

from collections.abc import Callable, Mapping
from typing import TypeVar, cast

from torch import nn

from wasi.errors import UserError
from wasi.layers.base import LowRankLayer
from wasi.models.attention import unpack_attention
from wasi.models.mapped import let_go
from wasi.models.structure import head_module, linear_sites

Layer = TypeVar("Layer", bound=nn.Module)


def scope_linears(model: nn.Module, scope: str) -> dict[str, nn.Linear]:
    """Name -> `nn.Linear` of `scope` inside the blocks.

    Packed attention is opened first where it is in scope.
    """
    if scope != "mlp":
        unpack_attention(model)
    return {site.name: cast(nn.Linear, model.get_submodule(site.name)) for site in linear_sites(model, scope)}


def check_weights(linears: Mapping[str, nn.Linear]) -> None:
    """Raises UserError that names the first layer with a zero or non-finite weight."""
    for name, linear in linears.items():
        if not linear.weight.isfinite().all() or not linear.weight.any():
            raise UserError("model.weights", f"({name})", "a layer whose weight is finite and not zero")
        let_go([linear.weight])


def replace_each(
    model: nn.Module, linears: dict[str, Layer], make: Callable[[str, Layer], nn.Module]
) -> None:
    """Put `make(name, linear)` in the place of each of `linears`; a linear under two names is replaced once.

    One at a time, and taken out of `linears`, so that a dense weight whose last linear has gone is freed before
    the next one is worked on. `make` must not keep what it was given.
    """
    made: dict[int, nn.Module] = {}  # by the linear's id: those still to come are alive, so none is taken twice
    for name in list(linears):
        linear = linears.pop(name)
        if id(linear) not in made:
            made[id(linear)] = make(name, linear)
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, made[id(linear)])
        del linear


def check_adapter_options(rank: int | None, alpha: float | None) -> None:
    """Raises UserError for a size that is null, which stands for a default with `method=peft` alone."""
    for option, value in (("lora_rank", rank), ("lora_alpha", alpha)):
        if value is None:
            raise UserError(f"method.{option}", "null", "a number above 0; null goes with method=peft")


def check_adapter_rank(rank: int, linears: Mapping[str, nn.Linear]) -> None:
    """Raises UserError for a rank that no linear can have."""
    largest = max(min(linear.weight.shape) for linear in linears.values())
    if rank > largest:
        raise UserError("method.lora_rank", rank, f"at most {largest}, the largest rank of a weight in scope")


def freeze_rest(model: nn.Module) -> None:
    """Only the head and what the method's own layers declare trainable go on training."""
    keep = {id(p) for p in head_module(model).parameters()}
    for layer in model.modules():
        if isinstance(layer, LowRankLayer):
            keep |= {id(p) for name, p in layer.named_parameters() if name != "bias" or layer.trains_bias}
    for parameter in model.parameters():
        if id(parameter) not in keep:
            parameter.requires_grad_(False)
