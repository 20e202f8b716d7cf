"""Start training from a run's saved model: load its weights, and pass its factors on to the method."""

import logging
from collections.abc import Sequence
from pathlib import Path

from torch import Tensor, nn

from wasi.linalg.orthonormal import qr_positive
from wasi.models.header import ModelHeader
from wasi.models.loading import Adapter, load_state, read_state
from wasi.models.outline import outline, unpacked_names
from wasi.models.saved import dense_state, factored_layers

log = logging.getLogger(__name__)

_FACTORS = "given_factors"  # attribute that is set on a weight


def load_saved(
    model: nn.Module,
    source: str | Path,
    header: ModelHeader,
    heads: tuple[str, ...],
    adapt: Adapter,
    classes: Sequence[str] | None = None,
) -> None:
    """Copy a run's model into `model`, the library's dense one; other arguments and errors are as for `load_file`.

    The classifier of other classes is left as it is in `model`, also if their number is the same: its rows would begin
    as those of classes that they do not stand for. `classes` are the names of the outputs of `model`; with None the
    number alone counts.

    A layer that the file holds as two factors gets their product as its weight, and the factors are attached to it
    (`give_factors`).
    """
    state = read_state(source, "model.weights")
    factors = {name: (state[f"{name}.L"], state[f"{name}.R"]) for name in factored_layers(header, state)}
    dense = dense_state(header, state)
    if classes is not None and tuple(classes) != header.classes:
        log.warning("model.weights=%s: that model has other classes, so the head is new", source)
        dense = {key: value for key, value in dense.items() if not key.startswith(heads)}
    load_state(model, dense, source, heads, adapt)
    if factors:
        names = unpacked_names(outline(header), header.scope)
        for name, (left, right) in factors.items():
            key = f"{name}.weight"
            give_factors(model.get_parameter(names.get(key, key)), left, right)


def give_factors(weight: Tensor, left: Tensor, right: Tensor) -> None:
    """Attach the factors of `weight = left @ right` (`O x I`) to it, as an attribute.

    They are attached as `Q` and `T right` for the QR decomposition `left = Q T`: training that treats the factors as
    ordinary parameters does not keep `left` orthonormal, but a method may require it.
    """
    q, triangular = qr_positive(left)
    setattr(weight, _FACTORS, (q, triangular @ right))


def given_factors(weight: Tensor) -> tuple[Tensor, Tensor] | None:
    """Return `L` (`O x K`, orthonormal columns) and `R` (`K x I`) attached by `give_factors`, or None."""
    factors = getattr(weight, _FACTORS, None)
    return None if factors is None else tuple(factor.to(weight) for factor in factors)
