"""Training settings that do not go together end as one sentence, before anything is read."""

import importlib.util

import pytest

from peftkit.config import TaskConfig
from peftkit.errors import ConfigError, MissingDependencyError
from peftkit.resolve import resolve
from peftkit.train.checks import fitting_losses, loss_name

CHAT = ["task.kind=generation"]


def said(*words):
    with pytest.raises(ConfigError) as raised:
        resolve("sentiment", words=words)
    return str(raised.value)


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (
            ["train.loss=mse"],
            "train.loss: mse does not fit task.kind=classification; take cross_entropy or dft or focal",
        ),
        (["train.loss=dft", "task.multi_label=true"], "with task.multi_label=true; take cross_entropy or focal"),
        (["train.label_smoothing=0.1", "task.multi_label=true"], "train.label_smoothing: it is for texts and for one"),
        (["train.label_smoothing=0.1", "train.loss=focal"], "goes with train.loss=cross_entropy, not with focal"),
        (["train.label_smoothing=1"], "train.label_smoothing: '1' is not usable"),
        ([*CHAT, "train.balance_classes=true"], "train.balance_classes: task.kind=generation has no labels to weigh"),
        ([*CHAT, "train.class_weights.spam=2"], "train.class_weights: task.kind=generation has no labels to weigh"),
        (["train.class_weights.spam=2", "train.balance_classes=true"], "do the same in two ways; take one"),
        (["train.class_weights.spam=-1"], "train.class_weights.spam: '-1' is not usable"),
        (["train.optim=adamw_8bits"], "train.optim: 'adamw_8bits' is no optimizer; did you mean 'adamw_8bit'?"),
        (["train.optim=gradient"], "train.optim: 'gradient' is no optimizer; there are for example adamw, adam,"),
        (["train.optim_args.momentum=0.9"], "train.optim_args.momentum: adamw has no such argument; it takes beta1"),
        (["train.optim=adafactor", "train.optim_args.eps=1"], "train.optim_args.eps: adafactor has no such argument"),
        (["train.optim=sgd", "train.optim_args.nesterov=1"], "train.optim_args.nesterov: 1.0 is not usable; true or"),
        (["train.optim=sgd", "train.optim_args.momentum=true"], "optim_args.momentum: True is not usable; a number"),
        (["train.optim=schedule_free_adamw"], "takes the place of a schedule; give train.lr_scheduler_type=constant"),
        (["train.optim=loraplus", "adapter.use_dora=true"], "train.optim: loraplus is for plain LoRA"),
        (["train.optim=lorafa", "adapter.method=loha"], "train.optim: lorafa is for plain LoRA"),
        (["train.lr_scheduler_type=cosin"], "'cosin' is no schedule of transformers; did you mean 'cosine'?"),
        (["train.lr_scheduler_type=reduce_lr_on_plateau"], "waits for evaluations during training"),
        (["train.extra.label_smoothing_factor=0.1"], "is a key of its own; set train.label_smoothing"),
        (["train.extra.loss_type=dft"], "is a key of its own; set train.loss"),
        (
            ["train.lr_scheduler_type=warmup_stable_decay", "train.warmup_fraction=0.5", "train.decay_fraction=0.6"],
            "train.decay_fraction: together with train.warmup_fraction it is more than all steps",
        ),
    ],
)
def test_settings_that_are_refused(words, sentence):
    found = said(*words)
    assert sentence in found
    assert "\n" not in found


def test_a_refusal_says_where_the_setting_came_from():
    assert said("train.loss=mse").endswith("(command line)")


def test_a_missing_library_is_named_with_what_to_install(monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "schedulefree" else found(name))
    with pytest.raises(MissingDependencyError, match="needs schedulefree: `pip install schedulefree`"):
        resolve("sentiment", words=["train.optim=schedule_free_adamw", "train.lr_scheduler_type=constant"])


def test_arguments_of_an_optimizer_keep_their_type():
    words = ["train.optim=sgd", "train.optim_args.momentum=1", "train.optim_args.nesterov=true"]
    arguments = resolve("sentiment", words=words).config.train.optim_args
    assert arguments == {"momentum": 1.0, "nesterov": True}
    assert [type(value) for value in arguments.values()] == [float, bool]


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"kind": "regression"}, ("mse", "mae", "huber")),
        ({"kind": "classification", "multi_label": True}, ("cross_entropy", "focal")),
        ({"kind": "chat"}, ("cross_entropy", "dft", "focal")),
    ],
)
def test_the_losses_of_a_task(task, expected):
    assert fitting_losses(TaskConfig(**task)) == expected


def test_auto_stands_for_the_first_loss_that_fits():
    config = resolve("sentiment").config
    assert loss_name(config) == "cross_entropy"
    scores = config.model_copy(update={"task": TaskConfig(kind="regression")})
    assert loss_name(scores) == "mse"
    assert loss_name(resolve("sentiment", words=["train.loss=focal"]).config) == "focal"
