import statistics as standard

import pytest
from scipy.stats import ttest_ind

from wasi.report.statistics import mean, std, welch_p

SAMPLES = [
    ([0.91, 0.93, 0.92], [0.95, 0.94, 0.97]),
    ([0.5, 0.7], [0.6, 0.61, 0.59, 0.62]),
    ([0.9, 0.8], [0.8, 0.9]),
]


@pytest.mark.parametrize(("a", "b"), SAMPLES)
def test_against_the_standard_library_and_scipy(a, b):
    assert mean(a) == pytest.approx(standard.mean(a), rel=1e-14)
    assert std(a) == pytest.approx(standard.stdev(a), rel=1e-12)
    assert welch_p(a, b) == pytest.approx(ttest_ind(a, b, equal_var=False).pvalue, rel=1e-10)


def test_without_spread_there_is_no_verdict():
    assert mean([]) is None and std([0.5]) is None
    assert welch_p([0.5], [0.4, 0.5]) is None
    assert welch_p([0.4, 0.5], [0.5]) is None


def test_two_samples_without_scatter():
    assert welch_p([0.5, 0.5], [0.5, 0.5]) == 1.0
    assert welch_p([0.5, 0.5], [0.4, 0.4]) == 0.0
