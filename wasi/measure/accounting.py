"""The paper's memory accounting: the weights of the linear layers in scope, and their inputs stored for backward.

Computed from shapes at float32, for comparison with the published tables. Query, key and value count as three layers
with a copy of their input each. What the paper leaves out (all other weights and activations, gradients, optimizer
state) is left out here, too; the measured memory is `memory/train_peak_mib`.
"""

from collections import defaultdict
from contextlib import ExitStack

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from wasi.layers.base import LowRankLayer
from wasi.layers.quantized import QuantizedAdapterLinear
from wasi.models.modes import eval_mode, without_fast_path
from wasi.models.structure import LinearSite, linear_sites, site_module, site_parameters

_FP32_PER_MIB = 1024**2 / 4
PRODUCTS = (torch.ops.aten.mm.default, torch.ops.aten.addmm.default, torch.ops.aten.bmm.default)


def paper_accounting(model: nn.Module, scope: str, example: Tensor, batch_size: int) -> dict[str, float]:
    """Return `memory/paper_train_mib` and `memory/paper_inference_mib` of a model, before or after a method is applied.

    Args:
        scope: the linear layers to count, as `method.scope`.
        example: normalised images `[b, 3, S, S]`; the first one is run through the model for the shapes.
        batch_size: number of images for which stored inputs are counted.

    Raises:
        RuntimeError: a dense weight in scope is not used in the forward pass, or in no matrix product.
    """
    sites = linear_sites(model, scope)
    matrices = {id(p): p for site in sites for p in site_weights(model, site)}  # shared ones once
    weights = sum(p.numel() for p in matrices.values()) + _quantized_bytes(model, sites) / 4
    stored = _stored_elements(model, sites, example[:1], batch_size)
    return {
        "memory/paper_train_mib": (weights + stored) / _FP32_PER_MIB,
        "memory/paper_inference_mib": weights / _FP32_PER_MIB,
    }


def site_weights(model: nn.Module, site: LinearSite) -> list[nn.Parameter]:
    """Return the matrices of a linear layer in scope: one dense weight, or factors and adapters."""
    return [p for p in site_parameters(model, site).values() if p.dim() == 2]


def _quantized_bytes(model: nn.Module, sites: list[LinearSite]) -> int:
    """Return the bytes of quantised weights, codes and scales."""
    layers = {site_module(model, site) for site in sites}
    return sum(layer.base.nbytes for layer in layers if isinstance(layer, QuantizedAdapterLinear))


def _stored_elements(model: nn.Module, sites: list[LinearSite], image: Tensor, batch_size: int) -> int:
    """Return the elements stored by all calls of all sites for a batch, from one forward pass of one image."""
    total = 0
    low_rank: list[tuple[LinearSite, LowRankLayer]] = []
    dense: dict[int, LinearSite] = {}
    for site in sites:
        module = site_module(model, site)
        if isinstance(module, LowRankLayer):
            low_rank.append((site, module))
        else:
            dense[site_weights(model, site)[0].untyped_storage()._cdata] = site

    def see(site: LinearSite, layer: LowRankLayer, x: Tensor) -> None:
        nonlocal total
        total += site.copies * layer.stored_elements((x.shape[0] * batch_size, *x.shape[1:]))

    with ExitStack() as stack:
        for site, layer in low_rank:
            hook = lambda _, args, site=site, layer=layer: see(site, layer, args[0])  # noqa: E731
            stack.enter_context(layer.register_forward_pre_hook(hook))
        with eval_mode(model), without_fast_path(), _ProductInputs(set(dense)) as products:
            model.forward(image)  # bypasses `autocast_forward`'s hooks: autocast uses copies of weights
    unseen = [site.name for key, site in dense.items() if key not in products.elements]
    if unseen:
        raise RuntimeError(f"no product with the weight of {unseen[0]} was seen in a forward pass")
    return total + sum(dense[key].copies * n * batch_size for key, n in products.elements.items())


class _ProductInputs(TorchDispatchMode):
    """Counts the elements that are multiplied with the given weights, by the weight's storage.

    It observes operators, not modules, because torchvision's attentions use weights without calling their layers.
    """

    def __init__(self, weights: set[int]):
        super().__init__()
        self._weights = weights
        self.elements: dict[int, int] = defaultdict(int)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in PRODUCTS:
            *_, x, weight = args
            key = weight.untyped_storage()._cdata
            if key in self._weights:
                self.elements[key] += x.numel()
        return func(*args, **(kwargs or {}))
