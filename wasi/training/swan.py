"""Swan: steps along the polar factors of matrix gradients, whose only state for matrices is an optional momentum."""

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence

import torch
from torch import Tensor

from wasi.deferred import eager
from wasi.linalg import batched
from wasi.linalg.polar import polar_factors
from wasi.linalg.precision import full_float32

_AdamW = eager(torch.optim.AdamW)
# Constructing an optimizer makes torch wrap `step` of its class, to call hooks. `Swan.step` gets wrapped, so the AdamW
# step that it calls must not be, or hooks would run twice.
_adamw_step = inspect.unwrap(_AdamW.step)

_AT_ONCE = 2**24  # the most entries of the matrices that are whitened together, 64 MiB in float32


class Swan(_AdamW):  # type: ignore[misc, valid-type]  # mypy cannot infer a class that is computed
    """Muon with an exact polar factor and without Nesterov momentum, and AdamW on all other parameters.

    A matrix gradient `M` (`O x r`) is replaced by its polar factor `M (M^T M)^(-1/2)`, whose singular values are all 1:
    it is whitened, as in SWAN (arXiv 2412.13148), without the row normalisation that comes first there. It is scaled so
    that the entries of the step on the weight have a root mean square of `0.2 lr`, about that of AdamW (Moonlight,
    arXiv 2502.16982). This applies to the parameters of groups with `whiten=True`. If these are coordinates `C`
    (`O x r`) of a step `C U^T`, the group's `in_features` is the number of columns of the weight. Weight decay is
    decoupled.

    Args:
        params: parameter groups; lr, betas, eps, weight_decay: as in `torch.optim.AdamW`.
        momentum: factor in [0, 1) of the running sum of matrix gradients, `S <- momentum S + M`, which is whitened in
            place of `M`. Above 0, `S` is state of the parameter's shape; `change_coordinates` transforms that of
            coordinates when their basis changes. `zero_grad` makes `momentum S` the parameter's `.grad`, into which
            autograd adds the next gradient, so no other gradient is held. So what scales or clips `.grad` of a whitened
            parameter changes its momentum; a parameter to which no gradient was added since `zero_grad` is not stepped
            on.

    Raises:
        ValueError: no group says by `whiten` whether it is of matrices, or `momentum` is not in [0, 1).
    """

    subspace_work = ((sys.modules[__name__], "whitened"),)  # callables whose work is measured as subspace work

    def __init__(self, params, lr: float, momentum: float = 0.0, **options):
        if not 0 <= momentum < 1:
            raise ValueError(f"momentum={momentum}: it must be in [0, 1)")
        super().__init__(params, lr=lr, **options)
        if not any("whiten" in group for group in self.param_groups):
            raise ValueError("Swan takes parameter groups with `whiten`, see `wasi.training.optimizer.optimizer_for`")
        self.momentum = momentum
        self._momentum_version: dict[Tensor, int] = {}  # of each momentum that is a gradient, without a new one

    @torch.no_grad()
    def step(self, closure=None):
        """Step on the whitened matrices, then by AdamW on all other parameters."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self.step_matrices()
        _adamw_step(self)
        return loss

    @torch.no_grad()
    @full_float32()
    def step_matrices(self, only: Iterable[Tensor] | None = None) -> None:
        """Step on the whitened parameters that have a new gradient, of `only` if given, and drop their gradients."""
        wanted = None if only is None else {id(p) for p in only}
        chosen = []
        for parameter, group in self.whitened_parameters():
            if wanted is not None and id(parameter) not in wanted:
                continue
            if self._has_new_gradient(parameter):
                chosen.append((parameter, group))
            else:
                parameter.grad = None
        for some in _whitened_together(chosen):
            self._whitened_step(some)

    @torch.no_grad()
    def change_coordinates(self, parameter: Tensor, change_of_basis: Tensor) -> None:
        """Transform the momentum `S` (`O x r`), if there is one, to another basis: `S <- S U^T U'`.

        Args:
            change_of_basis: `U^T U'` (`r x r`) for the old basis `U` and the new one `U'`.
        """
        if "momentum_buffer" in self.state.get(parameter, {}):
            momentum = self.state[parameter]["momentum_buffer"]
            momentum.copy_(momentum @ change_of_basis)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear all gradients; those of matrices with momentum become that momentum, whatever `set_to_none` is."""
        for parameter, _ in self.whitened_parameters():
            parameter.grad = None  # not zeros in place: it may be the momentum itself
        super().zero_grad(set_to_none)
        for parameter, _ in self.whitened_parameters():
            if "momentum_buffer" in self.state.get(parameter, {}):
                parameter.grad = self.state[parameter]["momentum_buffer"]
                self.mark_as_momentum([parameter])

    def mark_as_momentum(self, parameters: Iterable[Tensor]) -> None:
        """Take the gradients of `parameters` for their momentum alone, to which no gradient has been added yet."""
        self._momentum_version |= {p: p.grad._version for p in parameters if p.grad is not None}

    def has_changed_momentum(self) -> bool:
        """Return whether a gradient was added to a momentum since `zero_grad`; its earlier value is not kept."""
        with_momentum = (p for p, _ in self.whitened_parameters() if "momentum_buffer" in self.state.get(p, {}))
        return any(map(self._has_new_gradient, with_momentum))

    def load_state_dict(self, state_dict) -> None:
        # AdamW expects a step number in every state that it loads; those of whitened matrices have none.
        state = {key: {"step": torch.zeros(()), **found} for key, found in state_dict["state"].items()}
        super().load_state_dict({**state_dict, "state": state})
        self.zero_grad()

    def whitened_parameters(self) -> list[tuple[Tensor, dict]]:
        """Return every whitened parameter with its group."""
        return [(p, group) for group in self.param_groups if group.get("whiten") for p in group["params"]]

    def _has_new_gradient(self, parameter: Tensor) -> bool:
        """Return whether a gradient was added since `zero_grad`; a frozen or unused parameter has its momentum alone.

        Autograd adds in place, which raises the version of a tensor even if it adds zeros.
        """
        if parameter.grad is None:
            return False
        is_momentum = parameter.grad is self.state.get(parameter, {}).get("momentum_buffer")
        return not is_momentum or parameter.grad._version != self._momentum_version.get(parameter)

    def _whitened_step(self, chosen: Sequence[tuple[Tensor, dict]]) -> None:
        """Step on parameters, each given with its group, and drop their gradients, so that AdamW skips them.

        Coordinates `C`, whose group has `in_features`, are zeros that share one element of memory (stride 0) unless an
        earlier step is still in them; they are replaced by the step itself, and `wasi.layers.factored.fold_layers_`
        applies their weight decay.
        """
        widths = [group.get("in_features", parameter.shape[1]) for parameter, group in chosen]
        steps = whitened([self._with_momentum(parameter) for parameter, _ in chosen], widths)
        torch._foreach_mul_(steps, [(0.2 if group["maximize"] else -0.2) * group["lr"] for _, group in chosen])
        for (parameter, group), step in zip(chosen, steps, strict=True):
            if self.momentum and parameter.grad is not None:
                parameter.grad *= self.momentum  # decays the sum for the next step
            parameter.grad = None
            if "in_features" not in group:
                parameter.mul_(1 - group["lr"] * group["weight_decay"]).add_(step)
            elif parameter.stride() == (0, 0):
                parameter.data = step
            else:
                raise RuntimeError("call SubspaceIteration.finish() after step(): the last step is not in the weights")

    def _with_momentum(self, parameter: Tensor) -> Tensor:
        """Return the gradient, or, with momentum, the running sum, which then is both state and the gradient."""
        assert parameter.grad is not None  # ensured by `step_matrices`
        if self.momentum:
            state = self.state[parameter]
            if "momentum_buffer" not in state:
                parameter.grad = state["momentum_buffer"] = parameter.grad.clone()
            elif parameter.grad is not state["momentum_buffer"]:  # `zero_grad` was not called
                parameter.grad = state["momentum_buffer"].add_(parameter.grad)
        return parameter.grad


def _whitened_together(chosen: Iterable[tuple[Tensor, dict]]) -> Iterator[list[tuple[Tensor, dict]]]:
    """Split parameters into groups: on a CPU of one each, so that one step at a time takes memory.

    On an accelerator, where fewer and larger operations are faster, a group has up to `_AT_ONCE` entries.
    """
    group: list[tuple[Tensor, dict]] = []
    entries = 0
    for parameter, options in chosen:
        if group and (batched.is_on_cpu(parameter) or entries + parameter.numel() > _AT_ONCE):
            yield group
            group, entries = [], 0
        group.append((parameter, options))
        entries += parameter.numel()
    if group:
        yield group


def whitened(gradients: Sequence[Tensor], in_features: Sequence[int]) -> list[Tensor]:
    """Return the polar factor of each gradient (`O x r`, or its transpose's), scaled to the norm `sqrt(O in_features)`.

    That is the Frobenius norm of an `O x in_features` matrix whose entries have a root mean square of 1.
    """
    tall = [gradient if len(gradient) >= gradient.shape[1] else gradient.mT for gradient in gradients]
    norms = [(len(g) * width / min(g.shape)) ** 0.5 for g, width in zip(gradients, in_features, strict=True)]
    found = polar_factors(tall)
    torch._foreach_mul_(found, norms)
    return [polar if polar.shape == g.shape else polar.mT for polar, g in zip(found, gradients, strict=True)]
