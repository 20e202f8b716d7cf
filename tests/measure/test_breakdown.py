"""Exclusive times per label, and everything put back."""

import time
from types import SimpleNamespace

import pytest

from wasi.measure.breakdown import Breakdown


def near(ms):
    return pytest.approx(ms, rel=0.5)


class Layer:
    def forward(self):
        time.sleep(0.02)
        self.inner()
        Layer.plain()

    def inner(self):
        time.sleep(0.03)

    @staticmethod
    def plain():
        time.sleep(0.01)


def test_nested_time_counts_once():
    layer = Layer()
    with Breakdown({"outer": [(Layer, "forward")], "inner": [(Layer, "inner"), (Layer, "plain")]}) as b:
        layer.forward()
        time.sleep(0.02)
    assert b.ms() == {"outer": near(20), "inner": near(40), "rest": near(20)}
    start = time.perf_counter()
    with b:
        layer.forward()
    assert sum(b.ms().values()) == pytest.approx(80 + 1000 * (time.perf_counter() - start), rel=0.1)


def test_functions_of_a_module_and_methods_of_one_object():
    layer, other = Layer(), Layer()
    module = SimpleNamespace(f=lambda: time.sleep(0.02))
    with Breakdown({"f": [(module, "f")], "mine": [(layer, "inner")]}) as b:
        module.f()
        layer.inner()
        other.inner()
    assert b.ms() == {"f": near(20), "mine": near(30), "rest": near(30)}


def test_everything_is_restored_even_after_an_exception():
    layer, before = Layer(), dict(vars(Layer))
    with pytest.raises(ZeroDivisionError), Breakdown({"a": [(Layer, "plain"), (layer, "inner")]}) as b:
        layer.inner = None
        1 / 0  # noqa: B018
    assert dict(vars(Layer)) == before and "inner" not in vars(layer)
    assert set(b.ms()) == {"a", "rest"}


def test_a_name_that_does_not_exist_restores_what_was_wrapped():
    before = dict(vars(Layer))
    with pytest.raises(AttributeError), Breakdown({"a": [(Layer, "inner"), (Layer, "missing")]}):
        pass
    assert dict(vars(Layer)) == before


def test_waits_for_the_device_around_wrapped_calls():
    module, waits = SimpleNamespace(f=lambda: None), []
    with Breakdown({"f": [(module, "f")]}, synchronize=lambda: waits.append(1)):
        module.f()
    assert len(waits) == 4  # begin, before, after, end
