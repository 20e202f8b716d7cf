"""SGD whose matrix gradients are whitened: an adaptive step without optimizer state for matrices."""

import torch
from torch import Tensor

from wasi.linalg.subspace import polar_factor


class Swan(torch.optim.AdamW):
    """A step without state on matrices, AdamW on everything else.

    A matrix gradient `G` is replaced by its polar factor `G (G^T G)^(-1/2)`, all of whose singular values are 1, as in
    SWAN (arXiv 2412.13148) and Muon without momentum, and scaled so that the entries of the step have a root mean
    square of 0.2 `lr`, about that of AdamW (Moonlight, arXiv 2502.16982). It acts on the parameters of groups with
    `whiten=True`; a group's `in_features` is the number of columns of the weight, where the parameter holds
    coordinates of a step in fewer. Weight decay is decoupled.

    Args:
        params: parameter groups; lr, betas, eps, weight_decay: as of `torch.optim.AdamW`.
    """

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        held = []
        for group in self.param_groups:
            for parameter in group["params"] if group.get("whiten") else ():
                if parameter.grad is not None:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                    columns = group.get("in_features", parameter.shape[1])
                    parameter.add_(whitened(parameter.grad, columns), alpha=-0.2 * group["lr"])
                    held.append((parameter, parameter.grad))
                    parameter.grad = None  # AdamW passes over parameters without a gradient
        super().step()
        for parameter, grad in held:
            parameter.grad = grad
        return loss


def whitened(grad: Tensor, in_features: int) -> Tensor:
    """The polar factor of a matrix gradient (`O x r`), scaled as if spread over `O x in_features` entries of size 1."""
    rows, columns = grad.shape
    polar = polar_factor(grad) if rows >= columns else polar_factor(grad.mT).mT
    return polar * (rows * in_features / min(rows, columns)) ** 0.5
