"""What is printed of a finished run's accuracy."""

import pytest

from wasi.runs.job import _accuracies

CLASSES = [{"name": "good", "count": 95, "recall": 1.0}, {"name": "b\nad", "count": 5, "recall": 0.2}]
VALIDATION = {"val/acc": 0.96, "val/balanced_acc": 0.6}


@pytest.mark.parametrize(
    ("tested", "balanced"),
    [({}, "val/balanced_acc 0.6000"), ({"test/acc": 0.9, "test/balanced_acc": 0.5}, "test/balanced_acc 0.5000")],
)
def test_a_class_that_is_not_recognised_is_named(tested, balanced):
    output = _accuracies({"metrics": VALIDATION | tested, "classes": [*CLASSES, {"name": "none", "count": 0}]})
    assert output[-2:] == [balanced, "lowest recall 0.2000 (class b\\nad)"]
    assert output[0] == "val/acc 0.9600" and len(output) == 3 + bool(tested)


def test_what_was_not_measured_is_not_told():
    assert _accuracies({"metrics": {"val/acc": 0.5}}) == ["val/acc 0.5000"]
