"""The costs that reports show, in the order of their columns."""

from dataclasses import dataclass

TEST, VALIDATION = "test/acc", "val/acc"
ACCURACY_NAMES = {TEST: "test", VALIDATION: "validation"}


@dataclass(frozen=True)
class Cost:
    """A metric of result.json that is better when smaller.

    `title` heads its column, `name` and `unit_name` label figures. Values are divided by `unit` where they are shown;
    `stored_unit` is the unit without that division, None if it has no name. A cost that is `timed` depends on the
    machine, so it is compared only between results of one machine. One that is `of_process` has in it whatever else
    the process does, as evaluating, so it is compared only between two benchmarks or two trainings.
    """

    metric: str
    title: str
    name: str
    unit_name: str
    meaning: str
    unit: float = 1.0
    timed: bool = False
    of_process: bool = False
    stored_unit: str | None = None

    @property
    def axis(self) -> str:
        """The label for figures: `Time of a training step (ms)`."""
        return f"{self.name} ({self.unit_name})"

    @property
    def stored_axis(self) -> str:
        """The label for values as result.json has them, which are not divided by `unit`.

        >>> FLOPS.axis, FLOPS.stored_axis
        ('Work of a training step (GFLOP)', 'Work of a training step (FLOP)')
        """
        if self.unit == 1:
            return self.axis
        return f"{self.name} ({self.stored_unit})" if self.stored_unit else self.name


PEAK = Cost(
    "memory/train_peak_mib",
    "train MiB",
    "Peak memory of a training step",
    "MiB",
    "measured peak of live tensors over a whole training step: weights, gradients, optimizer state, "
    "activations and temporaries, in MiB (1024² bytes)",
)
STEP = Cost(
    "time/train_step_ms_p50",
    "step ms",
    "Time of a training step",
    "ms",
    "median time of a whole training step (forward, loss, backward, subspace work, optimizer), in ms",
    timed=True,
)
FLOPS = Cost(
    "flops/train_step",
    "step GFLOP",
    "Work of a training step",
    "GFLOP",
    "floating-point operations of one training step (2 per multiply-accumulate, subspace work included, "
    "the optimizer's arithmetic left out), in 10⁹",
    unit=1e9,
    stored_unit="FLOP",
)
INFERENCE = Cost(
    "time/inference_ms_p50",
    "infer ms",
    "Time of inference",
    "ms",
    "median time of one forward pass in evaluation over one batch, in ms",
    timed=True,
)
ENERGY = Cost(
    "energy/train_step_joules",
    "step J",
    "Energy of a training step",
    "J",
    "energy of a training step in joules, where the device tells what it draws: measured power times the step's time",
    timed=True,
)
PARAMETERS = Cost(
    "model/parameters",
    "params M",
    "Parameters",
    "10⁶",
    "parameters of the whole model after the method is applied, in 10⁶",
    unit=1e6,
)
RSS = Cost(
    "memory/train_rss_peak_mib",
    "RSS MiB",
    "Peak resident memory of training",
    "MiB",
    "peak resident memory of the training process above its state before the model exists, in MiB",
    of_process=True,
)
PROCESS = Cost(
    "memory/process_rss_peak_mib",
    "proc MiB",
    "Peak resident memory of the process",
    "MiB",
    "peak resident memory of the whole training process since it began: imports, building, calibration and "
    "training, in MiB",
    of_process=True,
)
STORED = Cost(
    "memory/stored_inputs_mib",
    "inputs MiB",
    "Inputs kept by the linear layers",
    "MiB",
    "what the linear layers in scope really keep of their inputs for the backward pass, in MiB",
)
PAPER = Cost(
    "memory/paper_train_mib",
    "paper MiB",
    "Training memory in the paper's accounting",
    "MiB",
    "the paper's accounting, computed from shapes: linear weights in scope plus their stored inputs, in MiB",
)

COSTS = (PEAK, PROCESS, STEP, FLOPS, INFERENCE, ENERGY, PARAMETERS, RSS, STORED, PAPER)
DROPPED_FIRST = (PAPER, STORED, RSS, PARAMETERS, FLOPS)
"""The columns that a narrow terminal leaves out, the first of them first; report.md has them all."""

PANELS = (PEAK, STEP, FLOPS)  # of the static figures
INTERACTIVE_PANELS = (PEAK, PROCESS, STEP, INFERENCE, FLOPS)  # of report.html and of W&B's dashboard


@dataclass(frozen=True)
class Prediction:
    """A measured cost, and one computed from shapes that predicts how much of it is saved.

    `of` names the saving, `by` the prediction and `what` the measurement, for titles and axes.
    """

    of: str
    predicted: Cost
    measured: Cost
    by: str
    what: str


PREDICTIONS = (
    Prediction("Memory", PAPER, PEAK, "by the paper's accounting", "peak of a whole step, measured"),
    Prediction("Training step", FLOPS, STEP, "by FLOPs", "time, measured"),
)
