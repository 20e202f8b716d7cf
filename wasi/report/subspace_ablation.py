"""The ablation of the subspace iteration: rows with `method.update=none` compared with those that have it."""

from wasi.config.files import select
from wasi.config.naming import show
from wasi.report.groups import Group, identity, unlike, with_threshold
from wasi.report.options import show_option
from wasi.report.statistics import SIGNIFICANCE, Paired

_UPDATE, _RATE = "method.update", "optimizer.lr"


def ablation_sentences(groups: list[Group]) -> list[str]:
    """A sentence for each row without the subspace iteration (`method.update=none`) that has a twin with it."""
    without = [group for group in groups if select(group.config, _UPDATE) == "none" and group.is_quotable]
    pairs = [(group, twin) for group in without if (twin := _twin(group, groups))]
    names = _names([twin for _, twin in pairs])
    sentences = [_sentence(*pair, name) for pair, name in zip(pairs, names, strict=True)]
    return [sentence for sentence in sentences if sentence]


def _names(twins: list[Group]) -> list[str]:
    """A name for each row: its recipe, or its method with thresholds and optimizer, and options if these are alike."""
    names = [twin.recipe or f"{with_threshold(twin)}, {_optimizer(twin)}" for twin in twins]
    found = []
    for name, twin in zip(names, twins, strict=True):
        alike = [other for other, theirs in zip(twins, names, strict=True) if theirs == name]
        apart = {key for other in alike for key in unlike(twin, other)} - {_RATE}
        options = [f"{key}={show_option(key, twin.options[key])}" for key in sorted(apart) if key in twin.options]
        found.append(", ".join([name, *options]))
    return found


def _optimizer(group: Group) -> str:
    return show_option("optimizer._target_", select(group.config, "optimizer._target_"))


def _twin(group: Group, groups: list[Group]) -> Group | None:
    """The row with the subspace iteration that is alike in all else but the learning rate, as each may be tuned.

    Of several it is the one that is most accurate on validation images; None without one.
    """
    same = (other for other in groups if identity(other) == identity(group) and _has_subspace_steps(other))
    alike = [other for other in same if unlike(other, group) <= {_UPDATE, _RATE}]
    return max(alike, key=lambda other: (other.validated, _RATE not in unlike(other, group)), default=None)


def _has_subspace_steps(group: Group) -> bool:
    """Whether the weights take subspace steps, which they do under two optimizers only (docs/method.md)."""
    if select(group.config, _UPDATE) != "subspace":
        return False
    compresses_inputs = any(key.startswith("method.activations.") for key in group.options)
    is_plain_sgd = _optimizer(group) == "SGD" and not group.options.get("optimizer.momentum")
    return is_plain_sgd or (_optimizer(group) == "Swan" and compresses_inputs)


def _sentence(without: Group, twin: Group, name: str) -> str | None:
    found = without.minus(twin)
    if found is None:
        return None
    rates = [show(select(group.config, _RATE)) for group in (twin, without)]
    rate = f"lr {rates[0]}" if rates[0] == rates[1] else f"lr {rates[0]}, without it {rates[1]}"
    return (
        f"Is the subspace iteration needed at all? {name} ({rate}): {_answer(found)}; "
        f"without it (method.update=none) accuracy changes by {100 * found.difference:+.2f} points"
        f"{found.interval_in_points} (n={found.n})."
    )


def _answer(found: Paired) -> str:
    if found.p is None:
        return "seeds that all differ by just as much cannot tell" if found.without_scatter else "one seed cannot tell"
    if found.p >= SIGNIFICANCE:
        return "these seeds show no need of it"
    return "yes, it is better with it" if found.difference < 0 else "no, it is better without it"
