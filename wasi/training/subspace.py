"""What turns a step of any torch optimizer into one step of subspace iteration (DESIGN 3.3)."""

import torch
from torch import Tensor, nn

from wasi.layers.base import LowRankLayer
from wasi.layers.factored import FactoredLinear


class SubspaceIteration:
    """The work around `optimizer.step()` for a model with low-rank layers; nothing to do for one without.

    >>> loss.backward(); norm = subspace.prepare(max_norm=2.0)
    >>> optimizer.step(); subspace.finish()
    """

    def __init__(self, model: nn.Module):
        self.layers = [m for m in model.modules() if isinstance(m, LowRankLayer)]
        pairs = {id(m.L): m for m in self.layers if isinstance(m, FactoredLinear) and m.L.requires_grad}
        self.factored = list(pairs.values())  # tied layers share one pair of factors, which steps once
        in_factors = {id(p) for m in self.factored for p in (m.L, m.R)}
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.rest = [p for p in self.parameters if id(p) not in in_factors]

    def prepare(self, max_norm: float | None) -> Tensor | None:
        """Between `backward` and `step`: tangent gradients, then clipping by their global norm.

        The norm is the one that the gradient of the products `L R` has in the tangent space, together with
        the ordinary gradients of all other parameters. Returned before clipping; None without `max_norm`.
        """
        squares = [layer.tangent_() for layer in self.factored if layer.L.grad is not None]
        if max_norm is None:
            return None
        rest = nn.utils.get_total_norm([p.grad for p in self.rest if p.grad is not None])
        norm = torch.stack([rest.square(), *squares]).sum().sqrt() if squares else rest
        nn.utils.clip_grads_with_norm_(self.parameters, max_norm, norm)
        return norm

    def finish(self) -> None:
        """After `step`: `L` orthonormal again, activation bases moved on."""
        for layer in self.factored:
            layer.retract_()
        for layer in self.layers:
            layer.advance()
