"""The rows of a table with what the page's figures need: a number, names, and how they look."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

from wasi.config.declared import is_reference
from wasi.report import statistics
from wasi.report.blocks import Block, row_names
from wasi.report.columns import Cost
from wasi.report.comparison import Comparison
from wasi.report.fields import ratio_text, significant
from wasi.report.groups import Group
from wasi.report.options import epsilon_label
from wasi.report.ranking import front_of
from wasi.report.series import series_of
from wasi.report.style import Style


@dataclass(frozen=True, eq=False)
class Row:
    """One group of a block. `key` is its number on the page; rows that differ only by thresholds have one `series`."""

    key: int
    name: str
    series: str
    style: Style
    block: Block
    comparison: Comparison
    on_front: bool

    @property
    def quoted_name(self) -> str:
        """The name for a sentence, in quotation marks if it contains commas."""
        return f"“{self.name}”" if "," in self.name else self.name

    @property
    def group(self) -> Group:
        return self.comparison.group

    @property
    def is_reference(self) -> bool:
        return is_reference(self.group.method)

    @property
    def threshold(self) -> str | None:
        return epsilon_label(self.group.config)

    @cached_property
    def accuracy(self) -> float | None:
        """The mean accuracy over seeds; None if there is none or it must not be quoted."""
        return self.group.quoted

    @cached_property
    def accuracy_interval(self) -> tuple[float, float] | None:
        """The 95 % t-interval of the mean accuracy, cut to [0, 1]; None for a single seed."""
        found = statistics.interval(self.group.values(self.group.accuracy)) if self.group.is_quotable else None
        return None if found is None else (max(found[0], 0.0), min(found[1], 1.0))

    def cost(self, cost: Cost) -> float | None:
        return self.group.cost(cost)

    def accuracy_text(self) -> str:
        """The accuracy, of a row that has one, as `0.9876 [0.9812, 0.9940]` or `0.9876 (one seed)`."""
        bounds = self.accuracy_interval
        return f"{self.accuracy:.4f}" + (f" [{bounds[0]:.4f}, {bounds[1]:.4f}]" if bounds else " (one seed)")

    def cost_text(self, cost: Cost) -> str:
        """The cost with its ratio, as `412.5 (1.93×)` or `412.5 (1.01×, within noise)`."""
        ratio = ratio_text(self.comparison.ratio(cost))
        noise = ", within noise" if self.comparison.within_noise(cost) else ""
        return significant(self.cost(cost)) + (f" ({ratio}{noise})" if ratio else "")

    def datum(self, **values: Any) -> dict[str, Any]:
        """A record of a figure with the fields by which the page knows the row under the pointer."""
        return {"row": self.key, "name": self.name, "series": self.series, "fill": self.style.fill, **values}

    def label(self) -> dict[str, str]:
        """What a figure prints beside the row's mark: its threshold, as on static figures; {} without one."""
        return {} if self.threshold is None else {"label": self.threshold}


def rows_of(block: Block, first: int) -> list[Row]:
    """The rows of a block, with numbers from `first` on."""
    series = {group: one for one in series_of(block) for group in one.groups}
    named = zip(row_names(block), block.comparisons, front_of(block.comparisons), strict=True)
    return [
        Row(key, name, series[one.group].label, series[one.group].style, block, one, on_front)
        for key, (name, one, on_front) in enumerate(named, first)
    ]
