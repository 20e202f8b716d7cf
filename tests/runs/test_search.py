"""What Optuna may try, how its trials become points, and a search that is killed and goes on."""

import json
import signal
import time
from collections import defaultdict
from types import SimpleNamespace

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from tests.runs.test_tuning import job_return, train, tune
from wasi.config.objectives import non_dominated
from wasi.errors import UserError
from wasi.runs.search import Range, Space, is_searched, point_of, searched_options, space_of
from wasi.runs.tuned_row import TunedRow
from wasi.runs.tuning import Row

COSTS = ("val/acc", "memory/train_peak_mib")


class Fixed:
    """A trial that takes the middle of a range and the last of its choices, and keeps what it was asked.

    Of a range, it takes the number at `share` of its width if that is given.
    """

    def __init__(self, share=None):
        self.params, self.share, self.distributions = {}, share, defaultdict(object)

    def suggest_float(self, name, low, high, log=False):
        self.distributions[name] = SimpleNamespace(low=low, high=high)
        middle = (low * high) ** 0.5 if log else (low + high) / 2
        return self.params.setdefault(name, middle if self.share is None else low + self.share * (high - low))

    def suggest_int(self, name, low, high, *, step=1, log=False):
        return self.params.setdefault(name, low + (high - low) // step // 2 * step)

    def suggest_categorical(self, name, choices):
        return self.params.setdefault(name, choices[-1])


def parsed(*words):
    return OverridesParser.create().parse_overrides(list(words))


def test_a_grid_of_rates_is_a_range_and_options_are_choices():
    space = space_of(tune([1e-4, 1e-3, 1e-2], ["sgd", "adamw"], **{"method.lora_rank": [4, 8]}), {}, {})
    assert space.axes["optimizer.lr"] == Range(1e-4, 1e-2, log=True)
    assert space.suggest(Fixed()) == {"optimizer": "adamw", "method.lora_rank": 8, "optimizer.lr": 1e-3}


def test_each_optimizer_has_its_own_range_of_rates():
    space = space_of(tune({"sgd": [0.01, 0.1], "adamw": [1e-5, 1e-3]}, ["sgd", "adamw"]), {}, {})
    trial = Fixed()
    point = space.suggest(trial)
    assert point == {"optimizer": "adamw", "optimizer.lr": 1e-4} and "optimizer.lr@adamw" in trial.params
    assert point_of(trial) == point and space.tried("optimizer.lr", point) == Range(1e-5, 1e-3, log=True)


@pytest.mark.parametrize("share", [0, 1e-5, 0.5, 1 - 1e-5, 1])
@pytest.mark.parametrize(("low", "high"), [(1.2346e-4, 9.8764e-3), (0.012341, 0.012344), (0.1, 0.2)])
def test_a_rounded_number_stays_in_its_range_and_is_the_same_when_the_search_goes_on(low, high, share):
    trial = Fixed(share)
    point = Space({"lr": Range(low, high, log=True)}).suggest(trial)
    assert low <= point["lr"] <= high and point_of(trial) == point


def test_numbers_to_choose_from_are_not_rounded_when_a_search_goes_on():
    space, trial = space_of(tune(**{"rank.activation_epsilon": [0.8125, 0.9375]}), {}, {}), Fixed()
    assert space.suggest(trial) == {"rank.activation_epsilon": 0.9375} == point_of(trial)


def test_a_single_rate_is_taken_and_has_no_edge():
    """It is part of every trial, so that Optuna can go on with more rates."""
    space = space_of(tune([0.02], None, **{"method.lora_rank": [4, 8]}), {}, {})
    trial = Fixed()
    point = space.suggest(trial)
    assert point == {"method.lora_rank": 8, "optimizer.lr": 0.02} == point_of(trial) and space.is_wide
    found = TunedRow(Row("lora", {}, [point], space), ["x"], [(0.5,)], ["completed"])
    assert found.edges == [["method.lora_rank"]]
    assert space_of(tune([0.02]), {}, {}).only() == {"optimizer.lr": 0.02}
    both = space_of(tune({"sgd": [0.02], "adamw": [1e-5, 1e-3]}, ["adamw", "sgd"]), {}, {})
    assert both.suggest(Fixed()) == {"optimizer": "sgd", "optimizer.lr": 0.02}
    one = space_of(tune({"sgd": [0.02]}, ["sgd"]), {}, {})
    assert not one.is_wide and one.only() == {"optimizer": "sgd", "optimizer.lr": 0.02}


def test_what_the_command_line_decides_is_not_searched():
    given = tune([1e-3, 1e-2], ["sgd", "adamw"], **{"rank.x": [3, 4]})
    space = space_of(given, {"optimizer.lr": "7", "optimizer": "sgd"}, {})
    assert space.axes == {"rank.x": [3, 4]}
    assert not space_of(tune(), {}, {}).is_wide and space_of(tune(**{"rank.x": [3]}), {}, {}).only() == {"rank.x": 3}


def test_ranges_and_choices_of_the_command_line():
    words = ("a=tag(log,interval(1e-4,1e-2))", "b=range(1,9,2)", "c=choice(x,y)", "d=x,y", "e=1")
    searched = searched_options(parsed(*words))
    assert searched == {"a": Range(1e-4, 1e-2, log=True), "b": Range(1, 7, step=2), "c": ["x", "y"]}
    assert searched_options(parsed("f=range(8,2,-2)")) == {"f": Range(4, 8, step=2)}
    whole = searched_options(parsed("g=int(interval(2,16))", "h=tag(log,int(interval(2,16)))"))
    assert whole == {"g": Range(2, 16, step=1), "h": Range(2, 16, log=True, step=1)}
    assert [override.key_or_group for override in parsed(*words) if not is_searched(override)] == ["d", "e"]
    assert space_of(tune([1, 2]), {}, {"optimizer.lr": Range(3, 4)}).axes == {"optimizer.lr": Range(3, 4)}


@pytest.mark.parametrize("word", ["a=interval(2,1)", "a=interval(1,1)", "a=tag(log,interval(0,1))", "a=range(3,3)"])
def test_a_range_without_width_is_refused(word):
    with pytest.raises(UserError, match=r"^a=.*LOW"):
        searched_options(parsed(word))


def test_a_range_without_a_number_is_refused():
    assert searched_options(parsed("a=range(0.5,1.1,0.5)")) == {"a": [0.5, 1.0]}
    with pytest.raises(UserError, match=r"^a=range\(0.5,0.1,0.1\): allowed is range\(FROM, TO, STEP\) with at least"):
        searched_options(parsed("a=range(0.5,0.1,0.1)"))


def test_a_study_is_of_one_row_and_one_seed_whatever_else_the_command_has():
    space = Space({"optimizer.lr": Range(1, 2)})
    words = {"dataset": "digits", "method": "wasi"}
    digest = Row("wasi", words, space=space).digest("1")
    assert digest == Row("wasi digits", {"logger": "none", **dict(reversed(words.items()))}, space=space).digest("1")
    others = [Row("wasi", words, space=space).digest("2"), Row("wasi", words, space=Space({"x": [1, 2]})).digest("1")]
    others.append(Row("wasi", {**words, "dataset": "synthetic"}, space=space).digest("1"))
    assert len({digest, *others}) == 4


def test_ranges_may_be_widened_and_choices_may_not():
    narrow, wide = (Space({"lr": Range(1, high)}).digest() for high in (2, 3))
    assert narrow == wide != Space({"lr": Range(1, 2), "x": [1, 2]}).digest()


def test_another_scale_or_step_is_another_study_and_that_of_a_grid_of_rates_keeps_its_name():
    kinds = [{"log": True}, {}, {"step": 1}, {"step": 2}, {"log": True, "step": 1}]
    digests = [Space({"lr": Range(1, 9, **kind)}).digest() for kind in kinds]
    assert len({*digests}) == 5 and digests[0] == Space({"lr": None}).digest()


def test_a_trial_whose_process_ended_before_it_was_drawn_fails_and_is_not_counted():
    optuna = pytest.importorskip("optuna")
    from hydra_plugins.optuna_sweeper import OptunaSweeper

    sampler = OmegaConf.create({"_target_": "optuna.samplers.RandomSampler", "seed": 0})
    sweeper, study = OptunaSweeper(2, 1, sampler), optuna.create_study()
    sweeper._optuna, space = optuna, Space({"x": Range(1, 9), "optimizer": ["sgd"]}, {"sgd": Range(1, 2, log=True)})
    study.ask()
    partly = study.ask()
    partly.suggest_float("x", 1, 9)
    partly.suggest_categorical("optimizer", ["sgd"])
    drawn = [sweeper._next_trials(study, space, done) for done in range(3)]
    assert [trial.state.name for trial in study.trials] == ["FAIL", "FAIL", "RUNNING", "RUNNING"]
    assert [list(trials) for trials in drawn] == [[2], [3], []]
    assert all(point.keys() == {"x", "optimizer", "optimizer.lr"} for trials in drawn for point in trials.values())
    assert sweeper._next_trials(study, space, 0) == drawn[0]


def test_the_result_of_another_configuration_is_no_trial_s(tmp_path):
    optuna = pytest.importorskip("optuna")
    from hydra_plugins.optuna_sweeper import OptunaSweeper

    study, sweeper = optuna.create_study(), SimpleNamespace(_objectives=["val/acc"])
    for number, name in enumerate(("a-0123456789", "b-f123456789")):
        study.ask()
        OptunaSweeper._tell(sweeper, study, number, job_return(tmp_path / name, 0.5))
    assert [trial.state.name for trial in study.trials] == ["COMPLETE", "RUNNING"]


@pytest.mark.parametrize(("rate", "edge"), [(1.1e-4, True), (9e-3, True), (1e-3, False), (2e-4, False)])
def test_the_edge_of_a_range(rate, edge):
    space = Space({"optimizer.lr": Range(1e-4, 1e-2, log=True)})
    found = TunedRow(Row("wasi", {}, [{"optimizer.lr": rate}], space), ["x"], [(0.5,)], ["completed"])
    assert found.edges == [["optimizer.lr"] if edge else []]
    assert any("EDGE of its grid (0.0001 to 0.01)" in line for line in found.lines()) == edge


def test_of_two_objectives_the_front_is_chosen():
    values = [(0.8, 20.0), (0.9, 30.0), (0.7, 25.0), None, (0.9, 30.0), (0.6, 10.0)]
    assert non_dominated(values, COSTS) == [1, 0, 5]
    grid = [{"x": place} for place in range(6)]
    found = TunedRow(Row("wasi", {}, grid), list("abcdef"), values, ["completed"] * 6, COSTS)
    assert found.choices == [{"x": 1}, {"x": 0}, {"x": 5}]
    assert sum("Pareto front" in line for line in found.lines()) == 3
    assert found.edges == [[], ["x"], ["x"]]
    assert sum("EDGE" in line for line in found.lines()) == 2


def test_a_record_that_a_full_disk_has_cut_is_dropped_from_the_journal(tmp_path):
    from hydra_plugins.optuna_sweeper import drop_cut_line

    journal = tmp_path / "optuna.journal"
    drop_cut_line(journal)
    assert not journal.exists()
    for content in (b'{"a": 1}\n{"b": 2}\n', b'{"a": 1}\n{"b": 2}\n{"c":', b'{"a'):
        journal.write_bytes(content)
        drop_cut_line(journal)
        assert journal.read_bytes() == content[: content.rfind(b"\n") + 1]


def study_of(sweep):
    optuna = pytest.importorskip("optuna")
    storage = optuna.storages.JournalStorage(optuna.storages.journal.JournalFileBackend(str(sweep / "optuna.journal")))
    (study,) = optuna.get_all_study_summaries(storage)
    return optuna.load_study(study_name=study.study_name, storage=storage)


def test_killed_in_the_middle_a_search_of_two_objectives_goes_on_and_trains_nothing_twice(tmp_path):
    pytest.importorskip("optuna")
    words = ("-m", "hydra/sweeper=optuna", "sweep=t", "method=vanilla", "hydra.sweeper.n_trials=3", "seed=1,2")
    words += ("tune.objectives=[val/acc,val/loss]", "optimizer.lr=tag(log,interval(0.01,0.5))")
    sweep = tmp_path / "multirun" / "t"

    def completed():
        results = {path: path.read_text() for path in sweep.glob("*/result.json")}
        return {path: text for path, text in results.items() if json.loads(text)["status"] == "completed"}

    process = train(*words, cwd=tmp_path)
    while not completed():
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 143, err
    before = completed()
    asked = len(study_of(sweep).trials)
    assert 1 <= asked <= 2 and not (sweep / "tuning.json").exists()
    with open(sweep / "optuna.journal", "a") as journal:
        journal.write('{"op_code": 4, "wor')  # as a full disk leaves it

    process = train(*words, cwd=tmp_path)
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    assert all(path.read_text() == text for path, text in before.items())
    study = study_of(sweep)
    assert len(study.trials) == 3 and all(trial.state.name == "COMPLETE" for trial in study.trials)
    (row,) = json.loads((sweep / "tuning.json").read_text())["rows"]
    assert [point["values"] for point in row["points"]] == [point_of(trial) for trial in study.trials]
    assert {tuple(p["values"].items()) for p in map(dict, row["points"])} >= {tuple(c.items()) for c in row["choices"]}
    assert sorted(study.best_trials[0].values) == sorted(
        point["val/acc"] if name == "val/acc" else point["val/loss"]
        for point in row["points"] if point["values"] == point_of(study.best_trials[0])
        for name in ("val/acc", "val/loss")
    )  # fmt: skip
    results = [json.loads(path.read_text()) for path in sweep.glob("*/result.json")]
    rates = [(result["config"]["seed"], result["config"]["optimizer"]["lr"]) for result in results]
    chosen = {(2, choice["optimizer.lr"]) for choice in row["choices"]}
    assert len(rates) == 3 + len(chosen) and chosen == {rate for rate in rates if rate[0] == 2}
    assert "on the Pareto front" in out


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("tune.objectives=[test/acc]",), "tune.objectives=['test/acc']: allowed is a list of metrics"),
        (("hydra.sweeper.n_trials=0",), "hydra.sweeper.n_trials=0: allowed is a whole number"),
        (("hydra.sweeper.sampler=null",), "hydra.sweeper.sampler=null: allowed is a class and its arguments"),
        (("hydra.sweeper.sampler.seed=null",), "hydra.sweeper.sampler.seed=null: allowed is a whole number"),
        (("tune.objectives=[val/acc,flops/train_step]",), "allowed is of validation alone with train.measure=false"),
    ],
)
def test_what_cannot_be_searched_for_trains_nothing(words, message, tmp_path):
    pytest.importorskip("optuna")
    words = ("-m", "hydra/sweeper=optuna", "sweep=t", "method=vanilla", "tune.lr=[0.1,0.2]", *words)
    process = train(*words, cwd=tmp_path)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 2 and err.count("\n") == 1, err
    assert message in err and not list(tmp_path.rglob("result.json"))


def test_objectives_are_values_of_the_result_and_never_of_the_test_split(compose_config):
    from wasi.config.objectives import ALLOWED, OF_A_PROCESS
    from wasi.config.validate import validate

    assert not [name for name in ALLOWED if name.startswith("test/")]
    validate(compose_config("tune.objectives=[val/acc,memory/train_peak_mib]", "train.measure=fast"))
    for name in OF_A_PROCESS:  # which only some of the runs in one process have with `fast`
        validate(compose_config(f"tune.objectives=[val/acc,{name}]"))
        with pytest.raises(UserError, match=r"^tune.objectives=.* with train.measure=fast: they need full"):
            validate(compose_config(f"tune.objectives=[val/acc,{name}]", "train.measure=fast"))
    assert OmegaConf.to_container(compose_config().tune.objectives) == ["val/acc"]
