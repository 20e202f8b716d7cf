"""A method of a user's own, of which the project knows its YAML file and its class alone."""

import sys
import textwrap

import pytest
from omegaconf import OmegaConf

from wasi.config import declared, known_options
from wasi.config.rank_options import rank_options_read
from wasi.config.validate import validate
from wasi.errors import UserError
from wasi.methods.apply import apply_method

CLASS = "class Mine:\n    appearance = {}\n"


@pytest.fixture
def own(tmp_path, monkeypatch, compose_config):
    """A function that adds `conf/method/mine.yaml` and its class, and returns a configuration with the method."""
    file = tmp_path / "method" / "mine.yaml"
    file.parent.mkdir()
    monkeypatch.setattr(declared, "_CONF", file.parent)
    monkeypatch.setattr(known_options, "_folders", lambda cfg: [known_options.CONF, tmp_path])
    monkeypatch.syspath_prepend(tmp_path)
    caches = (declared.appearance, declared.null_means, declared.worth_tuning, declared.rank_option_paths)

    def added(options: str, source: str = CLASS, **given):
        (tmp_path / "mine_of_tests.py").write_text(textwrap.dedent(source))
        file.write_text(f"_target_: mine_of_tests.Mine\nname: mine\nscope: all\n{options}\n")
        cfg = compose_config("device.compile=true", "rank.calibration_batches=4")
        cfg.method = OmegaConf.load(file)
        cfg.method.update(given)
        return cfg

    yield added
    for cached in caches:
        cached.cache_clear()


@pytest.mark.parametrize(
    "options",
    ["init: kaiming", "update: momentum", "base: fp8", "preconditioner: diagonal", "activations: relu", "type: x",
     "lora_rank: [4, 8]", "block_size: auto"],
)  # fmt: skip
def test_it_may_use_the_name_of_another_methods_option(options, own):
    validate(own(options))


def test_its_class_may_have_the_name_of_another_methods_class(own):
    validate(own("type: x", _target_="mine_of_tests.Peft"))


@pytest.mark.parametrize(
    ("options", "given"), [("lora_rank: 8", {"lora_rank": 0}), ("init: svd", {"init": "x"}), ("", {"scope": "x"})]
)
def test_what_it_means_as_the_others_do_is_checked(options, given, own):
    with pytest.raises(UserError, match=f"^method.{next(iter(given))}="):
        validate(own(options, **given))


@pytest.mark.parametrize(("init", "count"), [("random", True), ("${rank.init}", False)])
def test_calibration_batches_count_unless_rank_init_needs_none(init, count, own):
    cfg = own(f"init: {init}\nbatches: ${{rank.calibration_batches}}", init="random")
    assert ("calibration_batches" in rank_options_read(cfg)) is count


@pytest.mark.parametrize(
    ("options", "reads"),
    [("eps: ${rank.weight_epsilon}", True), ("ranks: ['${rank.keep_ratio}']", True), ("x: 1  # ${rank.init}", False)],
)
def test_whether_it_reads_rank_is_told_by_its_interpolations(options, reads, own):
    own(options)
    assert declared.reads_rank("mine") is reads and not declared.reads_rank("of_another_config_dir")


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        ("class Mine:\n    appearance = {'mine': {'colour': '#000000', 'marker': 'o'}}", "'order'"),
        ("class Mine:\n    appearance = {'mine': {'order': 1, 'color': '#000000', 'marker': 'o'}}", "'color'"),
        ("class Mine:\n    appearance = {'mine': {'order': 'x', 'colour': '#000000', 'marker': 'o'}}", "order=x: al"),
        ("class Mine:\n    appearance = {'mine': {'order': 1, 'colour': 'red', 'marker': 'o'}}", "is #RRGGBB"),
        ("class Mine:\n    appearance = {'mine': {'order': 1, 'colour': '#000000', 'marker': '+'}}", "one of o s D"),
        ("class Mine:\n    appearance = {'mine': {'order': 5 + 5 * 2}}", "malformed node"),
        ("class Mine:\n    appearance = {'mine': ", "was never closed"),
    ],
)
def test_a_declaration_that_cannot_be_read_is_refused_by_runs_and_reports(source, fault, own):
    cfg = own("", source)
    for read in (lambda: known_options.check_method(cfg), declared.method_names):
        with pytest.raises(UserError, match=r"^conf/method/mine.yaml: ") as error:
            read()
        assert fault in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(("line", "given"), [("name: other", "other"), ("", "null")])
def test_another_name_in_its_file_than_the_files_is_refused(line, given, tmp_path, monkeypatch, compose_config):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "mine.yaml").write_text(f"_target_: mine_of_tests.Mine\n{line}\n")
    monkeypatch.setattr(known_options, "_folders", lambda cfg: [known_options.CONF, tmp_path])
    cfg = compose_config()
    cfg.method = OmegaConf.load(tmp_path / "method" / "mine.yaml")
    with pytest.raises(UserError, match=rf"^method.name={given}: allowed is mine, the name of its file"):
        known_options.check_method(cfg)


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ("lr: 3\nrank: 3", "method.lr=3: allowed is one of method.name, method.rank, method.scope, the arg"),
        ("", "method._target_=mine_of_tests.Mine: allowed is a class .* method=mine, which has no rank"),
    ],
)
def test_options_that_its_class_does_not_take_are_refused(options, text, own, monkeypatch):
    monkeypatch.setattr("wasi.methods.apply.calibration_of", lambda *_: [])
    monkeypatch.delitem(sys.modules, "mine_of_tests", raising=False)
    source = "class Mine:\n    def __init__(self, name, scope, rank): pass\n    def apply(self, model, _): return model"
    with pytest.raises(UserError, match=f"^{text}"):
        apply_method(own(options, source), None, None, None)
    assert apply_method(own("rank: 3", source), "model", None, None)[0] == "model"
