"""SGD whose matrix gradients are whitened: an adaptive step without optimizer state for matrices."""

import inspect
import sys
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from wasi.deferred import eager
from wasi.linalg.subspace import polar_factors

_AdamW = eager(torch.optim.AdamW)
# Torch has every optimizer that is made wrap `step` of its class, to call hooks. `Swan.step` calls them; wrapped too,
# the step that it is made of would do so a second time.
_adamw_step = inspect.unwrap(_AdamW.step)


class Swan(_AdamW):  # type: ignore[misc, valid-type]  # a computed class, which the checker cannot look into
    """A step without state on matrices, AdamW on everything else.

    A matrix gradient `G` is replaced by its polar factor `G (G^T G)^(-1/2)`, all of whose singular values are 1, as in
    SWAN (arXiv 2412.13148), which normalises rows before that, and Muon without momentum. It is scaled so that the
    entries of the step have a root mean square of 0.2 `lr`, about that of AdamW (Moonlight, arXiv 2502.16982). This
    acts on the parameters of groups with `whiten=True`; a group's `in_features` is the number of columns of the weight,
    where the parameter holds coordinates of a step in fewer. Weight decay is decoupled.

    Args:
        params: parameter groups; lr, betas, eps, weight_decay: as of `torch.optim.AdamW`.
        momentum: factor by which past matrix gradients count less with every step, in [0, 1). Above 0 their sum is
            state: of a weight held as coordinates as many numbers as these, which `change_coordinates` takes along when
            the basis moves. `zero_grad` makes it the parameter's `.grad`, into which autograd adds the next gradient,
            so no gradient is held beside it.
    """

    subspace_work = ((sys.modules[__name__], "whitened"),)  # what is measured apart from the rest of the step

    def __init__(self, params, lr: float, momentum: float = 0.0, **options):
        super().__init__(params, lr=lr, **options)
        self.momentum = momentum

    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.step_matrices()
        _adamw_step(self)
        return loss

    @torch.no_grad()
    def step_matrices(self, only: Iterable[Tensor] | None = None) -> None:
        """The step of the parameters that are whitened; of these alone, where some are given."""
        chosen = [(p, group) for p, group in self.whitened_parameters() if p.grad is not None]
        if only is not None:
            wanted = {id(p) for p in only}
            chosen = [(p, group) for p, group in chosen if id(p) in wanted]
        on_cpu = all(parameter.device.type == "cpu" for parameter, _ in chosen)
        for some in [[one] for one in chosen] if on_cpu else [chosen]:  # together only where waiting costs more
            self._whitened_step(some)

    @torch.no_grad()
    def change_coordinates(self, parameter: Tensor, turn: Tensor) -> None:
        """Take the momentum `S` (`O x r`), if there is one, to another basis: `S <- S turn`, `turn` being `r x r`."""
        if "momentum_buffer" in self.state.get(parameter, {}):
            momentum = self.state[parameter]["momentum_buffer"]
            momentum.copy_(momentum @ turn)

    def zero_grad(self, set_to_none: bool = True) -> None:
        super().zero_grad(set_to_none)
        for parameter, _ in self.whitened_parameters():
            if "momentum_buffer" in self.state.get(parameter, {}):
                parameter.grad = self.state[parameter]["momentum_buffer"]

    def load_state_dict(self, state_dict) -> None:
        # AdamW looks for the step number in every state that it loads, and a whitened matrix's has none.
        state = {key: {"step": torch.zeros(()), **found} for key, found in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": state})
        self.zero_grad()

    def whitened_parameters(self) -> list[tuple[Tensor, dict]]:
        """Every parameter that is whitened, with its group."""
        return [(p, group) for group in self.param_groups if group.get("whiten") for p in group["params"]]

    def _whitened_step(self, chosen: Sequence[tuple[Tensor, dict]]) -> None:
        """Step on parameters, each with its group, and let go of their gradients: AdamW passes over them then.

        Coordinates of a step are zero, and share one element of memory, until they become the step here.
        """
        widths = [group.get("in_features", parameter.shape[1]) for parameter, group in chosen]
        steps = whitened([self._with_momentum(parameter) for parameter, _ in chosen], widths)
        for (parameter, group), step in zip(chosen, steps, strict=True):
            step *= -0.2 * group["lr"]
            if self.momentum and parameter.grad is not None:
                parameter.grad *= self.momentum  # the sum, for the next step
            parameter.grad = None
            if parameter.stride() == (0, 0):
                parameter.data = step
            else:
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(step)

    def _with_momentum(self, parameter: Tensor) -> Tensor:
        """The gradient, with momentum as a sum that is state from now on."""
        assert parameter.grad is not None  # else it is not stepped on
        if self.momentum:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                parameter.grad = state["momentum_buffer"] = parameter.grad.clone()
            elif parameter.grad is not state["momentum_buffer"]:  # `zero_grad` was not called
                parameter.grad = state["momentum_buffer"].add_(parameter.grad)
        return parameter.grad


def whitened(gradients: Sequence[Tensor], in_features: Sequence[int]) -> list[Tensor]:
    """Polar factors of matrix gradients (`O x r`), scaled to the length of `O x in_features` entries of size 1."""
    tall = [gradient if len(gradient) >= gradient.shape[1] else gradient.mT for gradient in gradients]
    found = []
    for gradient, polar, width in zip(gradients, polar_factors(tall), in_features, strict=True):
        polar = polar if polar.shape == gradient.shape else polar.mT
        found.append(polar * (len(gradient) * width / min(gradient.shape)) ** 0.5)
    return found
