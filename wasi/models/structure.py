"""Find a transformer's blocks and the linear layers inside them, by structure instead of model name.

An *attention* is an innermost module with linear layers whose class or attribute name says so, pooling excepted. A
*block* is the module that contains an attention, contains no other block, and is not the only one of its class, unless
the model has one block only. Linear layers within a block's attention have the role `attention`, the others `mlp`.
Head, patch embedding, patch merging and attention pooling lie outside every block. Networks that compute position
biases have neither role.
"""

import re
from collections import Counter
from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from wasi.errors import UserError
from wasi.layers.base import LowRankLayer

_LINEARS = (nn.Linear, LowRankLayer)  # before and after a method is applied
SCOPES = ("mlp", "attention", "all")
_ATTENTION_NAMES = ("attn", "attention", "self_attn", "self_attention")
_CONTAINERS = (nn.Sequential, nn.ModuleList)
_POSITION_NETWORK = re.compile(r"(^|\.)(cpb|rel_pos|pos|meta)_?\w*\.")


@dataclass(frozen=True)
class LinearSite:
    """One linear layer of a block; `copies` is how many of query, key and value it packs, and 1 for any other."""

    name: str
    block: str
    role: str  # "mlp" or "attention"
    in_features: int
    out_features: int
    copies: int


def find_blocks(model: nn.Module) -> dict[str, nn.Module]:
    """Return name -> transformer block, in the model's order; empty for a model without blocks."""
    modules = dict(model.named_modules())
    owner_of = {name: _owner(name, modules) for name in _attentions(modules)}
    holders = {o for o in owner_of.values() if any((n or "").startswith(f"{o}.") for n in owner_of.values())}
    owners = {_owner(n, modules, wrappers=False) if o in holders else o for n, o in owner_of.items()} - {None}
    repeats = Counter(type(modules[name]) for name in owners)
    return {n: m for n, m in modules.items() if n in owners and (repeats[type(m)] > 1 or len(owners) == 1)}


def linear_sites(model: nn.Module, scope: str) -> list[LinearSite]:
    """Return the linear layers of `scope` in all blocks, in the model's order.

    The packed `in_proj_weight` of nn.MultiheadAttention, a bare parameter, is named `<attention>.in_proj`.

    Raises:
        UserError: the scope is unknown, or no layer is in it.
    """
    if scope not in SCOPES:
        raise UserError("method.scope", scope, " | ".join(SCOPES))
    sites = [site for name, block in find_blocks(model).items() for site in _block_sites(name, block)]
    chosen = [site for site in sites if scope in ("all", site.role)]
    if not chosen:
        raise UserError("method.scope", scope, _what_is_there(model, sites))
    return chosen


def site_module(model: nn.Module, site: LinearSite) -> nn.Module | None:
    """Return the layer of a site, or None for a packed `in_proj_weight`, which has no module of its own."""
    parent, _, child = site.name.rpartition(".")
    return getattr(model.get_submodule(parent), child, None)


def site_parameters(model: nn.Module, site: LinearSite) -> dict[str, nn.Parameter]:
    """Return the parameters of a site by name: of a dense layer, and of a packed one, `weight` and maybe `bias`."""
    if (layer := site_module(model, site)) is not None:
        return dict(layer.named_parameters())
    parameters = model.get_submodule(site.name.rpartition(".")[0]).named_parameters(recurse=False)
    return {name.removeprefix("in_proj_"): p for name, p in parameters if name.startswith("in_proj_")}


def head_module(model: nn.Module) -> nn.Module:
    """Return the classifier: timm's `get_classifier()`, or torchvision's `heads` (ViT) or `head` (Swin).

    Several classifiers, as of timm's distilled models, are returned as an `nn.ModuleList`.

    Raises:
        UserError: the model has none of these.
    """
    if (get_classifier := getattr(model, "get_classifier", None)) is not None:
        head = get_classifier()
        return nn.ModuleList(head) if isinstance(head, tuple) else head
    for name in ("heads", "head"):
        if isinstance(getattr(model, name, None), nn.Module):
            return getattr(model, name)
    raise UserError("model.name", type(model).__name__, "a classifier (get_classifier, heads or head)")


def _attentions(modules: dict[str, nn.Module]) -> list[str]:
    """Return the names of the innermost attention modules."""
    found = [name for name, module in modules.items() if _looks_like_attention(module, name)]
    return [name for name in found if not any(other.startswith(f"{name}.") for other in found)]


def _looks_like_attention(module: nn.Module, name: str = "") -> bool:
    kind = type(module).__name__
    named = "Attention" in kind or "Attn" in kind or name.rpartition(".")[2] in _ATTENTION_NAMES
    if not named or "Pool" in kind or isinstance(module, _LINEARS):
        return False
    return any(isinstance(inner, _LINEARS) for inner in module.modules())


def _owner(attention: str, modules: dict[str, nn.Module], wrappers: bool = True) -> str | None:
    """Return the name of an attention's block, its nearest ancestor that is more than a container, or None.

    With `wrappers`, ancestors that are named like an attention and have no other linear layers are skipped, too.
    """
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
        if _POSITION_NETWORK.search(f"{name}.") or name.startswith(replaced):  # parts of a low-rank layer are no sites
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
    """Return how many projections a linear layer of this name packs."""
    return 3 if "qkv" in name else 2 if "kv" in name or "qk" in name else 1


def _what_is_there(model: nn.Module, sites: list[LinearSite]) -> str:
    if not sites:
        kind = "transformer blocks that hold an attention of linear layers"
        return f"available only for models with {kind}, and {type(model).__name__} has none"
    return "a scope with linear layers; here " + ", ".join(sorted({site.role for site in sites}))


def batch_norms(model: nn.Module) -> list[_BatchNorm]:
    """Return the model's batch norms of any kind, in its order."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


def first_convolution(model: nn.Module) -> tuple[str, nn.Conv2d] | None:
    """Return name and module of the model's first convolution, in a vision transformer the patch embedding's."""
    found = ((name, module) for name, module in model.named_modules() if isinstance(module, nn.Conv2d))
    return next(found, None)
