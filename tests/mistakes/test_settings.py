"""Mistakes in the settings: each key is refused before anything is read, by its name, with what it may be."""

from pathlib import Path

import pytest

from peftkit.errors import ConfigError
from peftkit.resolve import known_keys, resolve

from .exercise import Argv, Case, Command, Place, check_case, table

FREE = {  # any text can be a name, a path or another library's argument; cases below and beside this file break them
    "task.system",
    "task.labels",
    "task.label_separator",
    "model.path",
    "model.revision",
    "model.attn_implementation",
    "model.chat_template_kwargs.NAME",
    "model.extra.NAME",
    "adapter.target_modules",
    "adapter.extra.NAME",
    "data.path",
    "data.test_path",
    "data.columns.NAME",
    "data.weight_column",
    "train.extra.NAME",
    "evaluate.group_by",
}
REDACTED = "sql:postgresql://me:hunter2@host/shop#select text, label from reviews"


def word(*settings: str, recipe: str = "sentiment") -> Argv:
    """A run with these settings, which would end at its model if they were taken."""
    return lambda place: ["run", recipe, "model.path=./nosuch", *settings]


WORDS = [
    Case("unknown key", word("train.learning_rte=1"), 2, ("'train.learning_rte'", "mean 'train.learning_rate'?")),
    Case("key of another group", word("train.use_dora=1"), 2, ("'train.use_dora'", "mean 'adapter.use_dora'?")),
    Case("unknown group", word("trian.seed=1"), 2, ("'trian.seed'", "did you mean 'train.seed'?")),
    Case("key like none", word("zzz.yyy=1"), 2, ("'zzz.yyy'", "`peftkit recipes show NAME` lists all keys")),
    Case("key without group", word("max_steps=1"), 2, ("'max_steps'", "did you mean 'train.max_steps'?")),
    Case("group as key", word("train=1"), 2, ("'train'", "a group of keys, such as train.learning_rate")),
    Case("names left out", word("data.columns=text"), 2, ("'data.columns'", "written as data.columns.NAME")),
    Case("empty name", word("data.columns.=text"), 2, ("'data.columns.'", "data.columns.NAME")),
    Case("number for names", word("train.class_weights=5"), 2, ("'train.class_weights'", "train.class_weights.NAME")),
    Case("preset as key", word("preset=12gb"), 2, ("'preset'", "--preset")),
    Case("recipe as key", word("recipe=other"), 2, ("'recipe'", "the first argument")),
    Case("word without sign", word("train.max_steps"), 2, ("'train.max_steps' is not a setting", "key=value")),
    Case("word without key", word("=1"), 2, ("'=1' is not a setting",)),
    Case("fraction for int", word("train.max_steps=1.5"), 2, ("train.max_steps: '1.5'", "whole number")),
    Case("nothing for float", word("train.learning_rate="), 2, ("train.learning_rate: ''", "a number")),
    Case("not a number", word("train.learning_rate=nan"), 2, ("train.learning_rate: 'nan'", "greater than")),
    Case("infinite", word("train.learning_rate=inf"), 2, ("train.learning_rate: 'inf'", "finite")),
    Case("list as broken JSON", word("task.labels=[a"), 2, ("task.labels: '[a' is not valid JSON", "character 1")),
    Case(
        "null", word("train.learning_rate=null"), 2, ("train.learning_rate: null is not allowed", "leave the key out")
    ),
]

TASK = [
    Case(
        "kind",
        word("task.kind=clasification"),
        2,
        ("task.kind: 'clasification' is not one of", "did you mean 'classification'?"),
    ),
    Case(
        "no scores", word("task.kind=regression"), 2, ("needs a column 'score', and recipe 'sentiment' has: text, lab",)
    ),
    Case("no chats", word("task.kind=chat"), 2, ("task.kind=chat needs a column 'messages'", "(command line)")),
    Case("metrics of another kind", word("task.kind=completion"), 2, ("task.kind=completion", "accuracy")),
    Case("answer", word("task.answer=txt"), 2, ("task.answer: 'txt' is not one of 'auto'", "mean 'text'?")),
    Case(
        "several labels of a text",
        word("task.multi_label=true", recipe="summarization"),
        2,
        ("task.multi_label=true is for task.kind=classification only (command line)",),
    ),
    Case("no separator", word("task.multi_label=true", "task.label_separator="), 2, ("task.label_separator", "empty")),
    Case(
        "separator in a label",
        word("task.multi_label=true", 'task.labels=["a, b", "c"]'),
        2,
        ("task.labels", "a, b", "task.label_separator"),
    ),
    Case("one label", word("task.labels=positive"), 2, ("task.labels", "at least two different")),
    Case("labels twice", word("task.labels=good,bad,Good"), 2, ("task.labels", "at least two different")),
    Case("empty label", word("task.labels=good,,bad"), 2, ("task.labels", "non-empty labels")),
    Case("label name", word("data.label_names.1=posi"), 2, ("data.label_names.1: 'posi'", "negative, positive (comm")),
    Case("placeholder", word("task.prompt={txt}"), 2, ("task.prompt: {txt} is no column", "mean 'text'?")),
    Case("no placeholder", word("task.prompt=Good?"), 2, ("task.prompt: 'Good?' holds no column", "text, label")),
    Case("answer in prompt", word("task.prompt={text} {label}"), 2, ("task.prompt", "would be shown the answer")),
    Case("score in prompt", word("task.prompt={score}", recipe="regression"), 2, ("task.prompt", "shown the answer")),
    Case(
        "answer that is no label",
        word("task.completion=It is {label}"),
        2,
        (
            "task.completion: 'It is {label}' does not go with task.kind=classification",
            "column {label}",
            "leave it out",
        ),
    ),
    Case(
        "answer's placeholder",
        word("task.completion={sumary}", recipe="summarization"),
        2,
        ("task.completion: {sumary}", "mean 'summary'?"),
    ),
    Case("scale of nothing", word("task.score_std=0", recipe="regression"), 2, ("task.score_std: '0'", "than 0")),
    Case("no mean", word("task.score_mean=nan", recipe="regression"), 2, ("task.score_mean: 'nan'", "finite")),
]

ADAPTER = [
    Case("quantization", word("model.quantization=nf5"), 2, ("'nf5' is not one of 'none'", "mean 'nf4'?")),
    Case("dtype", word("model.dtype=float64"), 2, ("model.dtype: 'float64' is not one of 'auto'", "'float16'?")),
    Case(
        "remote code", word("model.extra.trust_remote_code=true"), 2, ("trust_remote_code is refused", "leave it out")
    ),
    Case("code by revision", word("model.extra.code_revision=a"), 2, ("model.extra.code_revision is refused",)),
    Case("method", word("adapter.method=lorra"), 2, ("adapter.method: 'lorra' is no method of PEFT", "mean 'lora'?")),
    Case("rank of zero", word("adapter.r=0"), 2, ("adapter.r: '0'", "or equal to 1")),
    Case("alpha of zero", word("adapter.lora_alpha=0"), 2, ("adapter.lora_alpha: '0'", "greater than 0")),
    Case("dropout of all", word("adapter.lora_dropout=1"), 2, ("adapter.lora_dropout: '1'", "less than 1")),
    Case(
        "rank of IA3", word("adapter.method=ia3", "adapter.r=8"), 2, ("adapter.r means nothing to adapter.method=ia3",)
    ),
    Case(
        "layers of a prompt",
        word("adapter.method=prompt_tuning", "adapter.target_modules=q_proj"),
        2,
        ("adapter.target_modules means nothing to adapter.method=prompt_tuning; leave it out",),
    ),
    Case(
        "DoRA of IA3",
        word("adapter.method=ia3", "adapter.use_dora=true"),
        2,
        ("adapter.use_dora is for adapter.method=lora, not ia3",),
    ),
    Case("start", word("adapter.init_lora_weights=pisa"), 2, ("'pisa' is no start of LoRA", "pissa, olora")),
    Case(
        "start on quantized weights",
        word("adapter.init_lora_weights=pissa", "model.quantization=nf4"),
        2,
        ("adapter.init_lora_weights=pissa cannot start on model.quantization=nf4",),
    ),
    Case(
        "method on quantized weights",
        word("adapter.method=adamss", "model.quantization=nf4"),
        2,
        ("adapter.method=adamss cannot train on model.quantization=nf4", "or model.quantization=none"),
    ),
    Case("LoRA as LoRA", word("adapter.save_as_lora=4"), 2, ("adapter.save_as_lora", "it is LoRA already")),
    Case("adapter.extra", word("adapter.extra.rnk=1"), 2, ("adapter.extra.rnk is not an argument", "LoraConfig")),
    Case("extra of a rank", word("adapter.extra.r=4"), 2, ("adapter.extra.r is a key of its own; set adapter.r",)),
]

DATA = [
    Case("no source", word("data.path=[]"), 2, ("data.path: [] is not usable", "at least one")),
    Case("null source", word("data.path=[null]"), 2, ("data.path: None", "text is expected")),
    Case(
        "password", word(f"data.path={REDACTED}"), 2, ("data.path: the password", "environment variable", "sql:$NAME#")
    ),
    Case(
        "password of a test",
        word("data.path=a.csv", f"data.test_path={REDACTED}"),
        2,
        ("data.test_path: the password", "sql:$NAME#"),
    ),
    Case("test without training", word("data.test_path=a.csv"), 2, ("data.test_path", "data.path")),
    Case("negative weight", word("data.path=a.csv", "data.weights=-1"), 2, ("data.weights: '-1'", "or equal to 0")),
    Case("weights of others", word("data.path=a.csv", "data.weights=1,2"), 2, ("data.weights", "2", "data.path")),
    Case("weights of none", word("data.weights=2"), 2, ("data.weights", "data.path")),
    Case("column of no use", word("data.columns.txt=a"), 2, ("data.columns.txt", "text, label", "mean 'text'?")),
    Case("format", word("data.format=jsonl"), 2, ("data.format: 'jsonl' is not one of 'auto'", "'alpaca'")),
    Case("format of no chat", word("data.format=alpaca"), 2, ("data.format=alpaca", "task.kind=chat")),
    Case("bad rows", word("data.on_bad_row=ignore"), 2, ("data.on_bad_row: 'ignore' is not one of 'error', 'skip'",)),
    Case("more than all", word("data.max_bad_fraction=2"), 2, ("data.max_bad_fraction: '2'", "or equal to 1")),
    Case("fractions", word("data.test_fraction=0.99"), 2, ("data.test_fraction", "no rows to train on (command line)")),
]

TRAIN = [
    Case("seed too large", word("train.seed=4294967296"), 2, ("train.seed: '4294967296'", "less than 4294967296")),
    Case("no epochs", word("train.num_train_epochs=0"), 2, ("train.num_train_epochs: '0'", "greater than 0")),
    Case("loss of scores", word("train.loss=mse"), 2, ("train.loss: mse does not fit task.kind=classification",)),
    Case(
        "loss of labels",
        word("train.loss=focal", recipe="regression"),
        2,
        ("train.loss: focal does not fit", "take mse or"),
    ),
    Case(
        "smoothing of another loss",
        word("train.label_smoothing=0.1", "train.loss=focal"),
        2,
        ("train.label_smoothing: it goes with train.loss=cross_entropy, not with focal",),
    ),
    Case(
        "weights twice",
        word("train.class_weights.positive=2", "train.balance_classes=true"),
        2,
        ("train.class_weights", "train.balance_classes=true", "(command line)"),
    ),
    Case(
        "weights of no labels",
        word("train.class_weights.a=2", recipe="summarization"),
        2,
        ("train.class_weights: task.kind=generation has no labels to weigh", "(command line)"),
    ),
    Case("negative class weight", word("train.class_weights.positive=-1"), 2, ("train.class_weights.positive: '-1'",)),
    Case("optimizer", word("train.optim=adamw_torh"), 2, ("train.optim: 'adamw_torh'", "mean 'adamw_torch'?")),
    Case("optimizer like none", word("train.optim=zzz"), 2, ("train.optim: 'zzz' is no optimizer", "adamw_8bit")),
    Case(
        "optimizer's argument",
        word("train.optim_args.momentum=0.9"),
        2,
        ("train.optim_args.momentum: adamw has no such argument; it takes beta1, beta2, eps (command line)",),
    ),
    Case(
        "argument as text", word("train.optim_args.beta1=x"), 2, ("train.optim_args.beta1: 'x'", "number is expected")
    ),
    Case(
        "switch as argument", word("train.optim_args.beta1=true"), 2, ("train.optim_args.beta1", "a number is expected")
    ),
    Case(
        "optimizer of LoRA",
        word("train.optim=loraplus", "adapter.method=ia3"),
        2,
        ("train.optim: loraplus is for plain LoRA; take adapter.method=lora",),
    ),
    Case("schedule", word("train.lr_scheduler_type=cosin"), 2, ("train.lr_scheduler_type: 'cosin'", "mean 'cosine'?")),
    Case(
        "schedule that waits",
        word("train.lr_scheduler_type=reduce_lr_on_plateau"),
        2,
        ("reduce_lr_on_plateau waits for evaluations", "take cosine"),
    ),
    Case(
        "schedule of more than all",
        word("train.lr_scheduler_type=warmup_stable_decay", "train.warmup_fraction=0.9", "train.decay_fraction=0.2"),
        2,
        ("train.decay_fraction", "train.warmup_fraction", "more than all steps"),
    ),
    Case("train.extra", word("train.extra.lerning=1"), 2, ("train.extra.lerning is not an argument", "SFTConfig")),
    Case("extra of a key", word("train.extra.seed=1"), 2, ("train.extra.seed", "set train.seed (command line)")),
    Case("extra that TRL refuses", word("train.extra.eval_strategy=often"), 2, ("settings are refused: often is not",)),
]


@table(*WORDS, *TASK, *ADAPTER, *DATA, *TRAIN)
def test_mistake_in_a_setting(case: Case, place: Place, command: Command) -> None:
    check_case(case, place, command)


@pytest.mark.parametrize("key", [key for key in known_keys() if key not in FREE])
def test_every_key_refuses_what_it_cannot_be(key: str) -> None:
    key = key.replace(".NAME", ".negative")
    with pytest.raises(ConfigError) as refused:
        resolve("sentiment", words=[f"{key}=zzz"])
    assert key in str(refused.value)
    assert "zzz" in str(refused.value)
    assert str(refused.value).count("command line") == 1


@pytest.mark.parametrize(
    ("key", "least"),
    [
        ("train.max_steps", 0),
        ("train.per_device_train_batch_size", 1),
        ("train.gradient_accumulation_steps", 1),
        ("train.max_length", 1),
        ("train.logging_steps", 1),
        ("train.save_steps", 0),
        ("train.save_total_limit", 2),
        ("train.save_minutes", 0),
        ("train.max_nan_steps", 1),
        ("train.weight_decay", 0),
        ("train.max_grad_norm", 0),
        ("train.neftune_noise_alpha", 0),
        ("train.focal_gamma", 0),
        ("train.loraplus_lr_ratio", 1),
        ("data.train_rows", 1),
        ("data.validation_fraction", 0),
        ("evaluate.max_rows", 0),
        ("evaluate.batch_size", 1),
        ("evaluate.max_new_tokens", 1),
        ("evaluate.bootstrap_samples", 1),
    ],
)
def test_numbers_below_the_least_are_refused(key: str, least: int) -> None:
    group, name = key.split(".")
    resolved = resolve("sentiment", words=[f"{key}={least}"])
    assert getattr(getattr(resolved.config, group), name) == least
    with pytest.raises(
        ConfigError, match=rf"{key}: '{least - 1}' .* greater than or equal to {least} \(command line\)"
    ):
        resolve("sentiment", words=[f"{key}={least - 1}"])


def test_a_password_reaches_neither_screen_nor_disk(command: Command) -> None:
    ended = command(["run", "sentiment", f"data.path={REDACTED}"])
    assert "hunter2" not in ended.out + ended.err
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize(
    "setting",
    [
        "adapter.r=500",
        "task.prompt=[{text}]",
        "task.prompt={text}",
        "task.answer=head",
        "task.labels=",
        'data.columns={"text": "text"}',
        "data.label_names.1=Positive",
        "data.test_path=",
        "data.weights=0.5",
        "train.optim=adafactor",
        "train.loss=dft",
        "train.balance_classes=true",
        'train.extra.lr_scheduler_kwargs={"num_cycles": 2}',
        'adapter.extra.rank_pattern={"q_proj": 8}',
    ],
)
def test_unusual_settings_that_are_no_mistake(setting: str, place: Place, command: Command) -> None:
    ended = command(place.check(setting))
    assert (ended.code, ended.err) == (0, "")
