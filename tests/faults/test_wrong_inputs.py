"""Wrong inputs, each of which ends in one line that names option, given and allowed, before torch is imported.

They are composed and checked here as train.py does it; tests/test_train_cli.py looks at the command from outside.
"""

from pathlib import Path

import pytest
from hydra.errors import HydraException

from wasi.config.hydra_errors import rejected
from wasi.config.known_options import check_config
from wasi.config.sweep_options import sweep_name
from wasi.errors import UserError
from wasi.runs.folder import check_folder
from wasi.runs.inputs import check_inputs

pytestmark = pytest.mark.long

WRONG = """
train.epoch=5
+train.epoch=5
++train.epoch=5
+trian.epochs=5
+epochs=3
+foo=bar
+method.foo=1
+model.foo=1
+dataset.foo=1
+rank.foo=1
+device.foo=1
+logger.foo=1
~train.epochs
~train.memory
~dataset.batch_size
~model
~method
~dataset
~rank
~device
~optimizer
~scheduler
~logger
~train
train=null
model=null
dataset=null
method=null
rank=null
device=null
optimizer=null
scheduler=null
logger=null
tune=null
train=5
model=nope
method=wasy
rank=eps_0.55
experiment=nope
recipe=nope
hydra/launcher=nope
train.epochs=0
train.epochs=-1
train.epochs=1.5
train.epochs=abc
train.epochs=null
train.epochs=true
train.epochs=[1]
train.micro_batch_size=0
train.micro_batch_size=7
train.clip_norm=0
train.clip_norm=nan
train.clip_norm=inf
train.select=worst
train.memory=thin
train.eval_every=0
train.checkpoint_every=0
train.save=all
train.measure=maybe
train.chunk_size=4
train.chunk_mib=4
train.memory=lean train.chunk_mib=0
train.storage=float32
train.rerun=1
seed=-1
seed=abc
seed=1.5
seed=9223372036854775808
seed=null
rank.weight_epsilon=0
rank.weight_epsilon=1.5
rank.weight_epsilon=nan
rank.weight_epsilon=abc
rank.activation_epsilon=-0.1
rank.activation_ranks=[1,2]
rank.activation_selection=fixed
rank.activation_selection=fixed rank.activation_ranks=[0,1,1]
rank.activation_selection=fixed rank.activation_ranks=[1.5,1,1]
rank.basis_update_gap=0
rank.batch_mode=half
rank.calibration_batches=0
rank.perplexity_ceiling=3
rank.memory_budget_mib=-1
rank.token_epsilon=2
rank.parameter_ratio=0.5
rank.perplexity_table=nowhere.json rank.activation_selection=perplexity
method.activations.epsilon=5
method.activations.ranks=abc
method.activations.update_gap=0
method.name=foo
method.seed=abc
method.calibration_batches=-3
method.weight_epsilon=7
method.scope=some
method.update=never
method.init=guess
method=lora method.lora_rank=0
method=lora method.lora_rank=-4
method=lora method.lora_alpha=0
method=lora method.base=int4
method=asi method.update=svd
optimizer.lr=0
optimizer.lr=-1
optimizer.lr=abc
optimizer.lr=inf
optimizer.momentum=1
optimizer.nesterov=true optimizer.momentum=0
optimizer.weight_decay=-1
optimizer=adamw optimizer.betas=[0.9]
optimizer=adamw optimizer.betas=[0.9,1.0]
scheduler.warmup_epochs=-1
scheduler.warmup_epochs=1000
scheduler.min_lr_ratio=2
dataset.batch_size=0
dataset.batch_size=abc
dataset.train_size=0
dataset.train_size=99999999
dataset.val_size=99999999
dataset.val_fraction=1
dataset.val_source=none
dataset.hflip=2
dataset.num_workers=-1
dataset.image_size=0
dataset.image_size=30
dataset.image_size=5600
dataset.image_size=1000000
dataset.root=null dataset=cifar10
dataset=image_folder dataset.root=nowhere
dataset=cifar10 dataset.root=nowhere
dataset=imagenet
device.name=gpu
device.num_threads=0
device.memory_limit_mib=0
device.dtype=float16
device.flush_denormals=perhaps
logger.mode=sometimes
logger.project=null
model.weights=nowhere.safetensors
model.weights=null
sweep=a/b
sweep=..
sweep=null
dataset.root=a,b
dataset.root=a=b
dataset.root=photos(1)
dataset.root=für
hydra.run.dir=.
hydra.run.dir=
train.epochs
"""


def refusal(words: list[str], compose_config) -> UserError | None:
    """What the command would end with; None where it would begin to train."""
    try:
        if words[0].startswith("hydra.run.dir="):
            check_folder(*words[0].split("="))
        cfg = compose_config(*words)
        check_config(cfg)
        sweep_name(cfg)
        check_inputs(cfg)
    except UserError as mistake:
        return mistake
    except (HydraException, ValueError) as error:
        return rejected(error, words)
    return None


@pytest.mark.parametrize("words", WRONG.split("\n")[1:-1])
def test_a_wrong_input_is_one_line(words, compose_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    output = refusal(words.split(" "), compose_config)
    assert output is not None and "\n" not in str(output)
    assert not list(Path.cwd().iterdir())
