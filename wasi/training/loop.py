"""The training loop: epochs of steps, with evaluation at intervals and at the end; resumable at any step."""

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from math import isfinite
from math import log as log_of
from pathlib import Path

import torch
from omegaconf import DictConfig
from tqdm import tqdm

from wasi.data.draws import generator
from wasi.data.loader import Batch, Loader, eval_batches, num_batches, train_batches
from wasi.data.spec import Images
from wasi.errors import Diverged, Interrupted, UserError
from wasi.signals import uninterrupted
from wasi.training import parallel
from wasi.training.checkpoint import Progress, load_best, load_checkpoint, save_best, save_checkpoint
from wasi.training.compile import graph_count
from wasi.training.durations import Durations
from wasi.training.evaluation import evaluate
from wasi.training.schedule import make_scheduler
from wasi.training.step import StepResult, TrainStep

log = logging.getLogger(__name__)

_SENSELESS = 10  # a final loss above this multiple of that of guessing is warned of


class Fit:
    """The training of one run; resumes from the checkpoint in `folder`, if there is one.

    Args:
        step: the optimizer step, with model and optimizer.
        train, val: the images of the two splits.
        cfg: the run's configuration.
        folder: holds `checkpoint.pt` and, with `train.select=best`, `best.pt`.
        tracker: receives `resume(step)` at the start, `log(step, values)` after every step and validation, and
            `flush()` before a checkpoint.
        on_epoch: callables that are called with the numbers of epochs and steps done, before the first step and after
            every epoch.
        mix: mixes images and labels of a training batch, see `batch_mix`; None leaves them unchanged.
    """

    def __init__(
        self,
        step: TrainStep,
        train: Images,
        val: Images,
        cfg: DictConfig,
        folder: Path,
        tracker,
        on_epoch: Sequence[Callable[[int, int], None]] = (),
        mix: Callable[..., Batch] | None = None,
    ):
        self.step, self.train, self.val = step, train, val
        self.cfg, self.folder, self.tracker = cfg, folder, tracker
        self.per_epoch = num_batches(train, cfg.dataset.batch_size)
        if cfg.dataset.batch_size > len(train):
            text = "dataset.batch_size=%d: there are %d training images, and a batch holds no more"
            log.warning(text, cfg.dataset.batch_size, len(train))
        self.total = step.total_steps = self.per_epoch * cfg.train.epochs
        self.scheduler = make_scheduler(cfg.scheduler, step.optimizer, self.total, self.per_epoch)
        self.progress: Progress = load_checkpoint(folder, step, self.scheduler, cfg.train.select == "best")
        self.resumed_from_step = self.progress.step
        tracker.resume(self.progress.step)
        self.on_epoch, self.mix = on_epoch, mix
        self._loaders: dict[str, Loader] = {}  # filled while `run` runs
        self._half_done = False  # whether a step or an epoch's end has begun and not ended, so nothing may be saved
        self.classes = 0  # number of classes, set by the first evaluation
        self._durations = Durations(step.device)
        self._save_if_best()  # an interrupted process may have written the checkpoint and not `best.pt`

    def step_seconds(self) -> list[float]:
        """Return the times of this process's steps on full batches, except those that compiled."""
        return self._durations.seconds()

    def run(self) -> dict[str, float]:
        """Train the remaining epochs; the model then has the weights of the last or the best epoch (`train.select`).

        Returns:
            `train/loss` and `val/*` of that epoch, and `val/best_acc` and `val/best_epoch` (from 1).

        Raises:
            Diverged: a loss or gradient norm is not finite.
            Interrupted: a signal arrived; a checkpoint has been saved unless it cut a step short.
        """
        if self.resumed_from_step:
            log.info("resuming at step %d of %d", self.resumed_from_step, self.total)
        workers, gpu = self.cfg.dataset.num_workers, self.step.device.type == "cuda"
        on_device = {"device": self.step.device, "resident": self.cfg.train.get("memory") != "lean"}
        self._loaders = {
            "train": Loader(self.train, workers, **on_device),
            "val": Loader(self.val, workers, **on_device, persistent=gpu),  # else only one set of workers at a time
        }
        try:
            if not self.progress.step:
                self._notify(0)
            for epoch in range(len(self.progress.epochs), self.cfg.train.epochs):
                self._epoch(epoch)
                values = self._results(epoch)
                self._notify(epoch + 1)
                with self._whole():
                    self._finish_epoch(epoch, values)
        except Interrupted:
            if not self._half_done:
                with uninterrupted():  # a scheduler's second signal must not interrupt the save
                    self._save()
            raise
        finally:
            self._loaders.clear()  # ends their workers, and frees images on the device
        best, selected = self.progress.best_epoch, self.cfg.train.epochs
        if self.cfg.train.select == "best":
            parallel.barrier()  # wait until the first process has written it
            load_best(self.folder, self.step)
            log.info("kept the weights of epoch %d, the best of validation", best)
            selected = best
        _warn_of_loss(self.progress.epochs[selected - 1]["val/loss"], self.classes)
        best_acc = self.progress.epochs[best - 1]["val/acc"]
        return self.progress.epochs[selected - 1] | {"val/best_acc": best_acc, "val/best_epoch": best}

    def _notify(self, epochs: int) -> None:
        """Call all of `on_epoch`."""
        for listener in self.on_epoch:
            listener(epochs, self.progress.step)

    def _epoch(self, epoch: int) -> None:
        data, start = self.cfg.dataset, self.progress.step - epoch * self.per_epoch
        options = {"hflip": data.hflip, "mix": self.mix, "part": parallel.shard}
        batches = train_batches(self._loaders["train"], data.batch_size, self.cfg.seed, epoch, start, **options)
        title = f"epoch {epoch + 1}/{self.cfg.train.epochs}"
        bar = tqdm(batches, title, self.per_epoch, initial=start, leave=False, disable=None)
        # A process that a signal stops while it loads a batch would leave the others alone in their next step.
        with bar, uninterrupted() if parallel.is_parallel() else nullcontext():
            for images, labels in bar:
                with self._whole():
                    result = self._one(images, labels)
                bar.set_postfix(loss=f"{result.loss:.3f}")
                if parallel.stop_together():
                    break

    def _one(self, images, labels) -> StepResult:
        """Take one step, log it, and write a checkpoint if one is due."""
        progress, rate = self.progress, self.scheduler.get_last_lr()[0]
        batch = self.step.prepare(images, labels)
        if parallel.rank():  # each process draws its own dropout masks; a checkpoint has the first one's generator
            torch.manual_seed(generator("dropout", self.cfg.seed, parallel.rank(), progress.step).initial_seed())
        compiled, stop = graph_count(), self._durations.start()
        with self._refusing_single_images(len(labels)):
            result = self.step(*batch)
        whole = result.count == self.cfg.dataset.batch_size  # not the smaller last batch of an epoch
        if whole and graph_count() == compiled:
            stop()
        self.scheduler.step()
        progress.step += 1
        progress.loss_sum += result.loss * result.count
        progress.count += result.count
        self.tracker.log(
            progress.step,
            {
                "train/loss": result.loss,
                "train/acc": result.correct / result.count,
                "train/grad_norm": result.grad_norm,
                "lr": rate,
            },
        )
        every = self.cfg.train.checkpoint_every
        if every and progress.step % every == 0:
            self._save()
        return result

    @contextmanager
    def _refusing_single_images(self, count: int) -> Iterator[None]:
        """Turn what a batch norm raises that sees one number per channel into a UserError.

        Whether it does is known in a step alone: most batch norms also see many positions of an image.

        Args:
            count: images of the step's batch; several are divided into micro-batches.

        Raises:
            UserError: of the option that makes a batch of a single image.
        """
        try:
            yield
        except ValueError as error:
            if "more than 1 value per channel" not in str(error):
                raise
            option, size, whole = "dataset.batch_size", self.cfg.dataset.batch_size, len(self.train)
            if count > 1:
                option, size, whole = "train.micro_batch_size", self.step.micro_batch_size, count
            allowed = f"a size that divides {whole} images without leaving a single one, as this model has batch norms"
            raise UserError(option, size, allowed) from error

    def _results(self, epoch: int) -> dict[str, float]:
        """Return `train/loss` of the epoch and, if it is to be validated, `val/*`; raises `Diverged` if not finite."""
        data, progress, train = self.cfg.dataset, self.progress, self.cfg.train
        values = {"train/loss": progress.loss_sum / progress.count}
        if (epoch + 1) % train.eval_every == 0 or epoch + 1 == train.epochs:
            size = self.step.evaluation_size(data.batch_size)
            batches = eval_batches(self._loaders["val"], size, part=parallel.shard)
            found = evaluate(self.step.model, batches, self.step.normalize)
            self.classes = len(found.counts)
            values |= found.metrics("val")
        if not all(isfinite(v) for v in values.values()):
            text = ", ".join(f"{name} is {value}" for name, value in values.items() if not isfinite(value))
            raise Diverged(f"after epoch {epoch + 1} {text}")
        return values

    def _finish_epoch(self, epoch: int, values: dict[str, float]) -> None:
        progress = self.progress
        progress.epochs.append(values)
        progress.loss_sum, progress.count = 0.0, 0
        text = ", ".join(f"{name.replace('/', ' ')} {value:.4f}" for name, value in values.items())
        log.info("epoch %d/%d: %s", epoch + 1, self.cfg.train.epochs, text)
        validated = {name: value for name, value in values.items() if name.startswith("val/")}
        if validated:
            self.tracker.log(progress.step, validated)
        self._save()  # after the last epoch, too: a run that is interrupted while measured need not train again
        self._save_if_best()

    def _save_if_best(self) -> None:
        """Write `best.pt` if the last epoch has just ended and is the best so far (`train.select=best`)."""
        if self.cfg.train.select == "best" and not parallel.rank() and self.progress.is_at_best:
            save_best(self.folder, self.step)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Delay a first signal until the end; a second one interrupts and leaves `_half_done` set: no checkpoint."""
        with uninterrupted():
            self._half_done = True
            yield
            self._half_done = False

    def _save(self) -> None:
        self.tracker.flush()
        if not parallel.rank():  # only the first process writes
            save_checkpoint(self.folder, self.step, self.scheduler, self.progress)


def _warn_of_loss(loss: float, classes: int) -> None:
    """Log a warning if the loss is far above ln(classes), that of guessing."""
    if classes > 1 and loss > _SENSELESS * log_of(classes):
        log.warning(
            "val/loss is %.3g, where guessing among %d classes has %.3g: this run has learned nothing that is of use; "
            "a lower optimizer.lr may help", loss, classes, log_of(classes),
        )  # fmt: skip
