"""Where a transformer's blocks are, and the linear layers inside them. Works by structure, not by model name.

An *attention* is an innermost module with linear layers that is called so, by its class or by its parent
(pooling excepted). A *block* is the module that owns one, holds no other block, and occurs more than once.
Its linears below its attention have the role `attention`, its others `mlp`. Head, patch embedding, patch
merging and attention pooling lie outside every block; networks that compute position biases are no part of
either role.
"""

import re
from collections import Counter
from dataclasses import dataclass

from torch import nn

from wasi.errors import UserError
from wasi.layers.base import LowRankLayer

_LINEARS = (nn.Linear, LowRankLayer)  # before and after a method was applied
SCOPES = ("mlp", "attention", "all")
_ATTENTION_NAMES = ("attn", "attention", "self_attn", "self_attention")
_CONTAINERS = (nn.Sequential, nn.ModuleList)
_POSITION_NETWORK = re.compile(r"(^|\.)(cpb|rel_pos|pos|meta)_?\w*\.")


@dataclass(frozen=True)
class LinearSite:
    """One linear map of a block. `copies`: 3 for packed query, key and value, 2 for key and value."""

    name: str
    block: str
    role: str  # "mlp" or "attention"
    in_features: int
    out_features: int
    copies: int


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Name -> transformer block, in the model's order; empty for a model without any."""
    modules = dict(model.named_modules())
    owner_of = {name: _owner(name, modules) for name in _attentions(modules)}
    holders = {o for o in owner_of.values() if any((n or "").startswith(f"{o}.") for n in owner_of.values())}
    owners = {_owner(n, modules, wrappers=False) if o in holders else o for n, o in owner_of.items()} - {None}
    repeats = Counter(type(modules[name]) for name in owners)
    return {n: m for n, m in modules.items() if n in owners and (repeats[type(m)] > 1 or len(owners) == 1)}


def linear_sites(model: nn.Module, scope: str) -> list[LinearSite]:
    """Linear layers of `scope` in all blocks, in the model's order.

    The packed `in_proj_weight` of nn.MultiheadAttention, a bare parameter, is named `<attention>.in_proj`.
    Raises UserError for an unknown scope and for a scope that matches nothing.
    """
    if scope not in SCOPES:
        raise UserError("method.scope", scope, " | ".join(SCOPES))
    sites = [site for name, block in find_blocks(model).items() for site in _block_sites(name, block)]
    chosen = [site for site in sites if scope in ("all", site.role)]
    if not chosen:
        raise UserError("method.scope", scope, _what_is_there(model, sites))
    return chosen


def head_module(model: nn.Module) -> nn.Module:
    """The classifier: timm's `get_classifier()`, torchvision's `heads` (ViT) or `head` (Swin).

    Raises UserError for a model without one.
    """
    if (get_classifier := getattr(model, "get_classifier", None)) is not None:
        head = get_classifier()
        return nn.ModuleList(head) if isinstance(head, tuple) else head
    for name in ("heads", "head"):
        if isinstance(getattr(model, name, None), nn.Module):
            return getattr(model, name)
    raise UserError("model.name", type(model).__name__, "a classifier (get_classifier, heads or head)")


def _attentions(modules: dict[str, nn.Module]) -> list[str]:
    """Names of the innermost attention modules."""
    found = [name for name, module in modules.items() if _looks_like_attention(module, name)]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def _looks_like_attention(module: nn.Module, name: str = "") -> bool:
    kind = type(module).__name__
    named = "Attention" in kind or "Attn" in kind or name.rpartition(".")[2] in _ATTENTION_NAMES
    if not named or "Pool" in kind or isinstance(module, _LINEARS):
        return False
    return any(isinstance(inner, _LINEARS) for inner in module.modules())


def _owner(attention: str, modules: dict[str, nn.Module], wrappers: bool = True) -> str | None:
    """The block of an attention: its nearest ancestor that is not just a container, or (`wrappers`) a wrapper."""
    name = attention
    while "." in name:
        name = name.rpartition(".")[0]
        module = modules[name]
        wrapper = wrappers and _looks_like_attention(module) and not _linears_outside(module, modules[attention])
        if not isinstance(module, _CONTAINERS) and not wrapper:
            return name
    return None


def _linears_outside(module: nn.Module, inner: nn.Module) -> bool:
    inside = set(inner.modules())
    return any(isinstance(m, _LINEARS) and m not in inside for m in module.modules())


def _block_sites(block_name: str, block: nn.Module) -> list[LinearSite]:
    attentions = tuple(f"{name}." for name in _attentions(dict(block.named_modules())))
    replaced = tuple(f"{name}." for name, module in block.named_modules() if isinstance(module, LowRankLayer))
    sites = []
    for name, module in block.named_modules():
        if _POSITION_NETWORK.search(f"{name}.") or name.startswith(replaced):  # what a layer is made of is no site
            continue
        role = "attention" if f"{name}.".startswith(attentions) else "mlp"
        if isinstance(module, nn.MultiheadAttention):
            width = module.embed_dim
            sites.append(LinearSite(f"{block_name}.{name}.in_proj", block_name, role, width, 3 * width, 3))
        elif isinstance(module, _LINEARS):
            i, o = module.in_features, module.out_features
            copies = _packed(name) if role == "attention" else 1
            sites.append(LinearSite(f"{block_name}.{name}", block_name, role, i, o, copies))
    return sites


def _packed(name: str) -> int:
    """How many projections a linear of this name holds, side by side."""
    return 3 if "qkv" in name else 2 if "kv" in name else 1


def _what_is_there(model: nn.Module, sites: list[LinearSite]) -> str:
    if not sites:
        kind = "transformer blocks that hold an attention of linear layers"
        return f"available only for models with {kind}, and {type(model).__name__} has none"
    return "a scope with linear layers; here " + ", ".join(sorted({site.role for site in sites}))


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Name and module of the model's first convolution: in a vision transformer, the patch embedding's."""
    found = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return next(found, None)
