"""A block as columns of text, from which the tables of the terminal and of report.md are made."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wasi.config.files import select
from wasi.config.naming import show
from wasi.report.blocks import Block
from wasi.report.columns import COSTS, Cost
from wasi.report.comparison import Comparison, has_width
from wasi.report.groups import Group, identity, short_names, shown_option
from wasi.report.load import Run
from wasi.report.options import activation_label, weight_label
from wasi.report.ranking import front_of
from wasi.report.tuned import tuned_value

MOST_NAMES = 6  # so many rows are named in a sentence
DASH = "-"
TUNED = "tuned"
WITHIN_NOISE = "≈"
NOT_QUOTABLE = "none"
_BALANCE = 0.02  # balanced accuracy is shown if it differs from accuracy by more


@dataclass(frozen=True)
class Field:
    """One column: a title and, per row, a value and its ratio to the baseline if the column has ratios.

    `spreads` has per row the standard deviation over seeds, or "", for a table with room for it. `is_text` columns are
    aligned to the left.
    """

    title: str
    values: list[str]
    ratios: list[str] | None = None
    spreads: list[str] | None = None
    is_text: bool = False
    cost: Cost | None = None


def fields_of(block: Block) -> list[Field]:
    """All columns in which some row has a value."""
    comparisons, remarks = block.comparisons, block.remarks
    fields = [
        Field("method", [_method(c, remarks) for c in comparisons], is_text=True),
        *_labels(block),
        Field("n", [str(len(group.trained) or DASH) for group in block.groups]),
        *_accuracy(comparisons),
        *(_cost(cost, comparisons) for cost in COSTS),
        Field("Pareto", ["●" if marked else DASH for marked in front_of(comparisons)]),
    ]
    return [field for field in fields if set(field.values) != {DASH}]


def facts_of(block: Block) -> str:
    """The options that all rows of the block share: `scope mlp, batch 64, 8 epochs, SGD lr 0.05, seeds 0, 1`."""

    def common(key: str) -> str | None:
        values = {show(select(group.config, key)) for group in block.groups}
        value = values.pop()
        return None if values or value == "null" else value

    facts = [
        f"{name} {value}" for name, key in (("scope", "method.scope"), ("batch", "dataset.batch_size"))
        if (value := common(key))
    ]  # fmt: skip
    if any(group.trained for group in block.groups) and (epochs := common("train.epochs")):
        facts.append(f"{epochs} epoch{'s' if epochs != '1' else ''}")
    if optimizer := common("optimizer._target_"):
        lr = common("optimizer.lr")
        facts.append(optimizer.rpartition(".")[2] + (f" lr {lr}" if lr else ""))
    seeds = {tuple(group.seeds) for group in block.groups}
    if len(seeds) == 1:
        (only,) = seeds
        facts.append(f"seed{'s' if len(only) > 1 else ''} {', '.join(map(str, only))}")
    return ", ".join(facts)


def name_of(run: Run) -> str:
    """A run in words: `wasi 0.8, vit_micro on digits, seed 1`, with `?` for what its configuration lacks."""
    method, model, dataset = (select(run.config, f"{part}.name") or "?" for part in ("method", "model", "dataset"))
    ranks = [label for label in (weight_label(run.config), activation_label(run.config)) if label]
    return f"{' '.join([str(method), *dict.fromkeys(ranks)])}, {model} on {dataset}, seed {run.config.get('seed', '?')}"


def signed(points: float) -> str:
    """Percentage points with their sign, the minus being U+2212.

    >>> signed(0.5), signed(-1.25)
    ('+0.50', '−1.25')
    """
    return f"{points:+.2f}".replace("-", "−")


def significant(value: float | None, digits: int = 4) -> str:
    """A number rounded to so many significant digits, without an exponent and with all digits before the point.

    None gives `-`.

    >>> [significant(v) for v in (None, 0.0, 0.45678, 12.3456, 4041.28, 123456.7)]
    ['-', '0', '0.4568', '12.35', '4041', '123457']
    >>> significant(9.99996), significant(0.9996, 3)
    ('10.00', '1.00')
    """
    if value is None:
        return DASH
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".partition("e")[2])  # of the rounded value: 9.99996 becomes 10.00
    decimals = digits - 1 - exponent
    return f"{value:.{min(max(decimals, 0), 12)}f}"


def have_ratios(comparisons: Iterable[Comparison], in_turns: bool) -> bool:
    """Whether some ratio of costs was measured in turns or, without `in_turns`, is of the means over seeds."""
    return any(
        comparison.ratio(cost) is not None and (comparison.in_turns(cost) is not None) is in_turns
        for comparison in comparisons
        for cost in COSTS
    )


def ratio_text(ratio: float | None) -> str:
    return "" if ratio is None else f"{significant(ratio, 3)}×"


def listed(words: Sequence[str]) -> str:
    """An enumeration of words in one text.

    >>> listed(["a", "b", "c"])
    'a, b and c'
    """
    return " and ".join(filter(None, [", ".join(words[:-1]), *words[-1:]]))


def listed_some(names: Sequence[str]) -> str:
    """An enumeration of at most `MOST_NAMES` names; of more, their number is told.

    >>> listed_some(list("abcdefgh"))
    'a, b, c, d, e, f and 2 more'
    """
    left = len(names) - MOST_NAMES
    return listed([*names[:MOST_NAMES], *([f"{left} more"] if left > 0 else [])])


def in_turns_text(ratio: Mapping[str, float] | None) -> str:
    """A benchmark's ratio (`Group.in_turns`) as text, with its 95 % interval unless that has no width.

    >>> [in_turns_text(r) for r in (None, {"p50": 2.0}, {"p50": 2.0, "low": 1.9, "high": 2.1})]
    ['-', '2.00×', '2.00× [1.90, 2.10]']
    """
    if ratio is None:
        return DASH
    return f"{ratio['p50']:.2f}×{interval_text(ratio)}"


def interval_text(ratio: Mapping[str, float]) -> str:
    """The 95 % interval of a benchmark's ratio as ` [1.90, 2.10]`; "" without one, or for one without width."""
    return f" [{ratio['low']:.2f}, {ratio['high']:.2f}]" if has_width(ratio) else ""


def _method(comparison: Comparison, remarks: list[str]) -> str:
    numbers = [str(remarks.index(remark) + 1) for remark in comparison.remarks]
    return comparison.group.method + (f" [{','.join(numbers)}]" if numbers else "")


def _labels(block: Block) -> list[Field]:
    """The columns that tell rows apart: recipe, scope, thresholds, what tuning chose, every other option that differs,
    the machine, and fingerprints if nothing else does."""
    _, scopes, weights, activations = zip(*map(identity, block.groups), strict=True)
    fields = [Field("recipe", [group.recipe or DASH for group in block.groups], is_text=True)]
    fields += [Field("scope", [scope or DASH for scope in scopes], is_text=True)] if len(set(scopes)) > 1 else []
    fields.append(Field("eps W", [label or DASH for label in weights]))
    fields.append(Field("eps A", [label or DASH for label in activations]))
    fields.append(Field(TUNED, [tuned_of(group) for group in block.groups], is_text=True))
    for key, name in short_names(block.differing).items():
        fields.append(Field(name, [shown_option(group, key) or DASH for group in block.groups]))
    machines = [group.hardware for group in block.groups]
    if len({machine for machine in machines if machine}) > 1:
        fields.append(Field("machine", [machine or DASH for machine in machines], is_text=True))
    if block.alike:
        fields.append(Field("fingerprint", [group.runs[0].fingerprint[:8] for group in block.groups]))
    return fields


def tuned_of(group: Group) -> str:
    """What tuning chose for the row, as the run of the tuning seed tells; `-` if the row was not tuned."""
    return next((value for run in group.runs if (value := tuned_value(run.path.parent))), DASH)


def _accuracy(comparisons: list[Comparison]) -> list[Field]:
    values = [_mean_and_std(comparison.group) for comparison in comparisons]
    differences = [_difference(comparison) for comparison in comparisons]
    intervals = [_interval(comparison) for comparison in comparisons]
    difference = Field(difference_column(comparisons), differences, spreads=intervals)
    return [Field(accuracy_column(comparisons[0].group), values), *_balanced(comparisons), difference]


def baseline_in_words(comparisons: Iterable[Comparison]) -> str:
    """What rows are compared with: `vanilla`, or `the baseline` if that of some row is none."""
    others = any(one.baseline is not None and not one.of_vanilla for one in comparisons)
    return "the baseline" if others else "vanilla"


def difference_column(comparisons: Iterable[Comparison]) -> str:
    """The title of the column of differences in accuracy: `Δ vanilla` or `Δ baseline`."""
    return f"Δ {baseline_in_words(comparisons).removeprefix('the ')}"


def accuracy_column(group: Group) -> str:
    """The title of the column of accuracies: `test acc` or `val acc`."""
    return group.accuracy.replace("/", " ")


def _balanced(comparisons: list[Comparison]) -> list[Field]:
    """The column of balanced accuracy; none unless `is_imbalanced` holds for some row."""
    groups = [comparison.group for comparison in comparisons]
    if not any(map(is_imbalanced, groups)):
        return []
    means = map(balanced_accuracy, groups)
    return [Field("balanced", [DASH if mean is None else f"{mean:.4f}" for mean in means])]


def balanced_accuracy(group: Group) -> float | None:
    """Balanced accuracy on the images whose accuracy is quoted, as the mean over seeds."""
    return group.mean(f"{group.accuracy.partition('/')[0]}/balanced_acc") if group.is_quotable else None


def is_imbalanced(group: Group) -> bool:
    """Whether balanced accuracy differs from accuracy by more than `_BALANCE`."""
    accuracy, balanced = group.quoted, balanced_accuracy(group)
    return accuracy is not None and balanced is not None and abs(accuracy - balanced) > _BALANCE


def _mean_and_std(group: Group) -> str:
    mean, std = group.quoted, group.std(group.accuracy)
    if mean is None:
        return DASH if group.is_quotable else NOT_QUOTABLE
    return f"{mean:.4f}" if std is None else f"{mean:.4f}±{std:.4f}"


def _difference(comparison: Comparison) -> str:
    difference, verdict = comparison.accuracy_difference, comparison.verdict
    if difference is None or verdict is None:
        return DASH
    mark = {"differs": "", "within noise": WITHIN_NOISE, "n=1, no spread": "(n=1)", "no spread": "(no spread)"}
    return f"{difference:+.4f} {mark[verdict]}".rstrip()


def _interval(comparison: Comparison) -> str:
    bounds = comparison.interval
    return f" [{bounds[0]:+.4f}, {bounds[1]:+.4f}]" if bounds else ""


def _cost(cost: Cost, comparisons: list[Comparison]) -> Field:
    values = [significant(comparison.group.cost(cost)) for comparison in comparisons]
    spreads = [_spread(comparison.group, cost) for comparison in comparisons]
    ratios = [_marked(comparison, cost) for comparison in comparisons]
    return Field(cost.title, values, ratios, spreads, cost=cost)


def _spread(group: Group, cost: Cost) -> str:
    """The standard deviation as `±1.2`; "" without one, and for values that are equal up to rounding."""
    std, mean = group.std(cost.metric), group.mean(cost.metric)
    return f"±{significant(std / cost.unit, 2)}" if std and mean is not None and std > 1e-9 * abs(mean) else ""


def _marked(comparison: Comparison, cost: Cost) -> str:
    return ratio_text(comparison.ratio(cost)) + (WITHIN_NOISE if comparison.within_noise(cost) else "")
