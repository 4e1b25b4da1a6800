"""What a run is, as frozen, validated data.

`RunConfig` is the one statement of every key, its type, its default and its help text. A key is written the same way
everywhere: `train.learning_rate` in a YAML file (nested), on the command line (`train.learning_rate=2e-4`), and as an
attribute in Python (`config.train.learning_rate`). `peftkit.resolve` builds one from a recipe, a file and words.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from peftkit.adapter.methods import find_method
from peftkit.adapter.starts import find_start


def _no_bool(value: object) -> object:
    """Refuse `true` where a number is meant: Python counts it as 1, and a YAML file can hold it by accident."""
    if isinstance(value, bool):
        raise ValueError("a number is expected, not true or false")
    return value


def _no_number(value: object) -> object:
    """Read a YAML number as text where text is meant (a label `1`, a revision `0123456`)."""
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else value


def _words(value: object) -> object:
    """Read `a,b` as a list of two, so that a list can be written as one word of a command line."""
    return [word.strip() for word in value.split(",")] if isinstance(value, str) else value


def _no_case(value: object) -> object:
    """Read `True`, a YAML true and the word true as one and the same."""
    return str(value).lower() if isinstance(value, bool | str) else value


def _one(value: object) -> object:
    """Read one source as a list of one; a comma may be part of a file's name or of a query."""
    return [value] if isinstance(value, str) else value


Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
PositiveCount = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, allow_inf_nan=False)]
PositiveNumber = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]
SignedNumber = Annotated[float, BeforeValidator(_no_bool), Field(allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1)]
Text = Annotated[str, BeforeValidator(_no_number)]
Words = Annotated[tuple[Text, ...], BeforeValidator(_words)]
Numbers = Annotated[tuple[Number, ...], BeforeValidator(_words)]
Sources = Annotated[tuple[Text, ...], BeforeValidator(_one), Field(min_length=1)]

Quantization = Literal["none", "nf4", "fp4", "int8"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Split = Literal["train", "validation", "test"]
Kind = Literal["generation", "classification", "regression", "chat", "completion"]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class TaskConfig(_Group):
    """What the model is asked, and what it may answer."""

    kind: Kind = Field("generation", description="what is learned: a text, a label, a score, a chat, or plain text")
    answer: Literal["auto", "text", "head"] = Field(
        "auto", description="how labels are given: text that the model writes, or a head on it; auto goes by the model"
    )
    system: Text | None = Field(None, description="system message; {labels} stands for the list of labels")
    prompt: Text = Field("{text}", description="user message; {column} stands for a column of the data")
    completion: Text = Field("{label}", description="the answer that is trained; {column} stands for a column")
    labels: Words | None = Field(
        None, description="the answers that are allowed, such as negative,positive; empty takes those of the data"
    )
    multi_label: bool = Field(False, description="a row has any number of the labels, not exactly one")
    label_separator: Text = Field(",", description="what separates the labels of a row where it has several")
    score_mean: SignedNumber | None = Field(None, description="the score that counts as 0; empty takes the data's mean")
    score_std: PositiveNumber | None = Field(
        None, description="how much of a score counts as 1; empty takes the data's standard deviation"
    )

    @property
    def system_message(self) -> str | None:
        """The system message with the labels in it; None where there is none."""
        return self.system and self.system.replace("{labels}", ", ".join(self.labels or ()))

    @property
    def separator(self) -> str | None:
        """What separates the labels of a row; None where a row has exactly one."""
        return self.label_separator if self.multi_label else None

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> TaskConfig:
        if self.multi_label and self.kind != "classification":
            raise ValueError("task.multi_label=true is for task.kind=classification only")
        if self.multi_label and not self.label_separator:
            raise ValueError("task.label_separator is empty, so the labels of a row could not be told apart")
        held = [label for label in self.labels or () if self.multi_label and self.label_separator in label]
        if held:
            raise ValueError(
                f"task.labels: '{held[0]}' holds task.label_separator, '{self.label_separator}'; change one"
            )
        if self.labels is not None:
            folded = [label.casefold() for label in self.labels]
            if len(folded) < 2 or len(set(folded)) < len(folded) or "" in folded:
                raise ValueError("task.labels needs at least two different, non-empty labels")
        return self


class ModelConfig(_Group):
    """The base model, and how its weights are held."""

    path: Text = Field("smollm2-135m-instruct", description="embedded model, local folder, .gguf file or hub id")
    revision: Text | None = Field(None, description="commit, tag or branch of a hub id")
    quantization: Quantization = Field("nf4", description="how bitsandbytes holds the frozen weights")
    dtype: Dtype = Field(
        "auto", description="dtype of unquantized weights and of computation; auto is bfloat16 where it is fast"
    )
    attn_implementation: Text | None = Field(
        None, description="attention kernel, such as sdpa, or varlen for packing; empty is transformers' choice"
    )
    chat_template_kwargs: dict[str, Any] = Field({}, description="named arguments of the chat template")
    extra: dict[str, Any] = Field({}, description="more named arguments of from_pretrained")

    @model_validator(mode="after")
    def _runs_no_foreign_code(self) -> ModelConfig:
        for name in ("trust_remote_code", "code_revision"):
            if name in self.extra:
                raise ValueError(
                    f"model.extra.{name} is refused: a configuration never runs code of a model's author; leave it out"
                )
        return self


class AdapterConfig(_Group):
    """The small trained part."""

    method: Text = Field("lora", description="the PEFT method; `peftkit methods` lists them all")
    r: PositiveCount | None = Field(None, description="rank of the update; empty takes the method's usual value")
    lora_alpha: PositiveNumber | None = Field(
        None, description="scale of the update, lora_alpha / r (or / sqrt(r) with use_rslora); empty as for r"
    )
    lora_dropout: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1)] = Field(
        0.0, description="dropout before the update"
    )
    target_modules: Words | None = Field(
        None, description="layers that get an adapter: names, or all-linear; empty takes the method's usual ones"
    )
    init_lora_weights: Annotated[Text, BeforeValidator(_no_case)] = Field(
        "true", description="how LoRA starts: true, gaussian, pissa, olora, eva, corda ...; see `peftkit methods lora`"
    )
    use_rslora: bool = Field(False, description="rank-stabilised scaling (arXiv 2312.03732)")
    use_dora: bool = Field(False, description="weight-decomposed update (arXiv 2402.09353)")
    save_as_lora: Count = Field(
        0, description="rank of the LoRA that another method's adapter is turned into after training; 0 keeps it"
    )
    extra: dict[str, Any] = Field({}, description="more named arguments of the PEFT configuration")

    @model_validator(mode="before")
    @classmethod
    def _usual_values(cls, given: Any) -> Any:
        """Fill in what the method usually takes, so that a configuration says what was really used."""
        if not isinstance(given, dict) or not isinstance(given.get("method", "lora"), str):
            return given
        try:
            method = find_method(given.get("method", "lora"))
        except ValueError as error:
            raise ValueError(f"adapter.method: {error}") from error
        usual = {
            "r": method.rank and method.rank[1],
            "lora_alpha": method.alpha and method.alpha[1],
            "target_modules": method.targets if method.targets != "-" else None,
        }
        for key, value in usual.items():
            if given.get(key) is None:
                given = given | {key: value}
        return given | {"method": method.name}

    @model_validator(mode="after")
    def _fits_the_method(self) -> AdapterConfig:
        method = find_method(self.method)
        unused = {
            "r": self.r is not None and method.rank is None,
            "lora_alpha": self.lora_alpha is not None and method.alpha is None,
            "lora_dropout": bool(self.lora_dropout) and method.dropout is None,
            "target_modules": self.target_modules is not None and method.targets == "-",
        }
        for key, wrong in unused.items():
            if wrong:
                raise ValueError(f"adapter.{key} means nothing to adapter.method={method.name}; leave it out")
        if method.name != "lora":
            for key in ("use_rslora", "use_dora", "init_lora_weights"):
                if getattr(self, key) != type(self).model_fields[key].default:
                    raise ValueError(f"adapter.{key} is for adapter.method=lora, not {method.name}; leave it out")
        try:
            start = find_start(self.init_lora_weights)
        except ValueError as error:
            raise ValueError(f"adapter.init_lora_weights: {error}") from error
        if start.reads_base and (self.use_dora or {"rank_pattern", "alpha_pattern"} & self.extra.keys()):
            raise ValueError(
                f"adapter.init_lora_weights={start.name} cannot be had together with adapter.use_dora or with ranks of "
                "single layers; leave one out"
            )
        if self.save_as_lora and not method.converts:
            lora = "it is LoRA already" if method.name == "lora" else "PEFT cannot turn it into LoRA"
            raise ValueError(f"adapter.save_as_lora is not for adapter.method={method.name}: {lora}; leave it out")
        return self


class DataConfig(_Group):
    """Where rows come from, and what happens to bad ones."""

    path: Sources | None = Field(
        None, description="your rows: file, folder, glob, -, hf:, kaggle:, cord19: or sql:; empty takes embedded data"
    )
    weights: Numbers | None = Field(
        None, description="for several sources: how often each one's training rows are seen; 0.5 takes every second"
    )
    test_path: Sources | None = Field(None, description="held-out rows, as data.path; empty splits data.path")
    columns: dict[str, Text] = Field({}, description="your name of a column, such as data.columns.text=review")
    label_names: dict[str, Text] = Field({}, description="your value of a label, such as data.label_names.1=positive")
    format: Literal["auto", "columns", "messages", "sharegpt", "alpaca", "prompt_completion", "text"] = Field(
        "auto", description="how a row says what is asked and answered; auto goes by the names of its columns"
    )
    weight_column: Text | None = Field(None, description="column with each row's weight in the loss")
    on_bad_row: Literal["error", "skip"] = Field("error", description="stop at a bad row, or leave it out")
    max_bad_fraction: Share = Field(0.01, description="with on_bad_row=skip: the largest share of bad rows")
    train_rows: PositiveCount | None = Field(None, description="use at most this many training rows")
    validation_fraction: Share = Field(0.05, description="share of rows that go to validation")
    test_fraction: Share = Field(0.1, description="share of rows that are held out for evaluation")

    @model_validator(mode="after")
    def _sources_go_together(self) -> DataConfig:
        if self.test_path is not None and self.path is None:
            raise ValueError("data.test_path is for rows of your own; give the training rows with data.path")
        if self.weights is not None and len(self.weights) != len(self.path or ()):
            raise ValueError(
                f"data.weights has {len(self.weights)} numbers for the {len(self.path or ())} sources of data.path; "
                "give one for each"
            )
        return self

    @model_validator(mode="after")
    def _leaves_rows_to_train(self) -> DataConfig:
        if self.validation_fraction + self.test_fraction >= 1:
            raise ValueError("data.validation_fraction and data.test_fraction together leave no rows to train on")
        return self


class TrainConfig(_Group):
    """How the adapter is trained."""

    learning_rate: Number = Field(2e-4, description="peak learning rate")
    num_train_epochs: PositiveNumber = Field(1.0, description="passes over the training rows")
    max_steps: Count = Field(0, description="stop after this many steps; 0 trains all epochs")
    per_device_train_batch_size: PositiveCount = Field(8, description="rows per forward pass")
    gradient_accumulation_steps: PositiveCount = Field(1, description="forward passes per optimizer step")
    max_length: PositiveCount = Field(1024, description="tokens per row; the text of a longer row is cut")
    loss: Literal["auto", "cross_entropy", "dft", "focal", "mse", "mae", "huber"] = Field(
        "auto", description="what is minimized; auto is cross_entropy for texts and labels, mse for scores"
    )
    focal_gamma: Number = Field(2.0, description="of the focal loss: how much less what is known already counts")
    huber_delta: PositiveNumber = Field(1.0, description="of the huber loss: error from which on it grows linearly")
    label_smoothing: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1)] = Field(
        0.0, description="share of each target that is spread over all classes or tokens (arXiv 1512.00567)"
    )
    class_weights: dict[str, Number] = Field(
        {}, description="weight of a label's rows in the loss, such as train.class_weights.spam=3; others have 1"
    )
    balance_classes: bool = Field(False, description="give rare labels the weight in the loss that frequent ones have")
    neftune_noise_alpha: Number = Field(
        0.0, description="noise on the embeddings while training (arXiv 2310.05914), often 5; 0 adds none"
    )
    optim: Text = Field("adamw", description="optimizer, such as adamw, adamw_8bit, lion, muon, loraplus or sgd")
    optim_args: dict[str, bool | Annotated[float, Field(allow_inf_nan=False)]] = Field(
        {}, description="the optimizer's own arguments, such as train.optim_args.momentum=0.9"
    )
    loraplus_lr_ratio: Annotated[float, BeforeValidator(_no_bool), Field(ge=1, allow_inf_nan=False)] = Field(
        16.0, description="of loraplus: how many times faster B learns than A"
    )
    lr_scheduler_type: Text = Field(
        "linear", description="learning-rate schedule, such as linear, cosine, constant or warmup_stable_decay"
    )
    warmup_fraction: Share = Field(0.05, description="share of the steps over which the learning rate rises")
    decay_fraction: Share = Field(0.2, description="of warmup_stable_decay: share of the steps over which it falls")
    weight_decay: Number = Field(0.0, description="decoupled weight decay")
    max_grad_norm: Number = Field(1.0, description="clip the gradient's norm to this; 0 does not clip")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third slower")
    checkpoint_layers: Count | Literal["auto"] | None = Field(
        None,
        description="with gradient_checkpointing: recompute only so many layers, the first ones; auto takes as few as "
        "memory allows, by the forecast; empty takes all",
    )
    keep_attention: bool = Field(
        False,
        description="with gradient_checkpointing: keep what attention gives; for long texts, which it is slow for",
    )
    offload_activations: bool = Field(
        False, description="with gradient_checkpointing: what it keeps goes to main memory; for long texts on a GPU"
    )
    tiled_mlp: Count = Field(
        0, description="tokens that pass feed-forward layers at once, usually 4096, for long texts; 0 takes all"
    )
    recompute_pointwise: bool = Field(
        False,
        description="compute norms and activation functions again: 2/5 less to keep, for a few percent of time",
    )
    fused_lora: bool | None = Field(
        None, description="LoRA layers as one operation with fewer copies; empty takes it where it fits"
    )
    compile_layers: bool = Field(
        False, description="compile each layer with torch.compile: faster on a GPU, after minutes at the start"
    )
    liger_kernels: bool = Field(
        False, description="Liger's norms, rotations and gated layers; on a CUDA GPU, with peftkit[liger]"
    )
    group_by_length: bool = Field(True, description="batches of rows of like length: less padding")
    packing: bool = Field(False, description="pack rows into sequences of max_length without padding")
    worst_batch_first: bool = Field(
        True, description="pass the longest rows before the first step, so that memory runs out at once or never"
    )
    logging_steps: PositiveCount = Field(1, description="steps between lines of metrics.jsonl")
    save_steps: Count = Field(0, description="steps between checkpoints; 0 goes by save_minutes, and saves each epoch")
    save_minutes: Number = Field(
        2.0, description="minutes between checkpoints, without save_steps; 0 saves epochs only"
    )
    save_total_limit: Annotated[int, BeforeValidator(_no_bool), Field(ge=2)] = Field(
        2, description="checkpoints that are kept, two or more"
    )
    on_nan: Literal["stop", "skip"] = Field(
        "stop", description="what to do before a step whose loss or gradient is not finite; skip leaves it out"
    )
    max_nan_steps: PositiveCount = Field(3, description="with on_nan=skip: the most steps that are left out in a run")
    seed: Annotated[Count, Field(lt=2**32)] = Field(
        0, description="seed of the adapter's start, the order of rows, and dropout"
    )
    extra: dict[str, Any] = Field({}, description="more named arguments of TRL's SFTConfig or transformers' Trainer")

    @model_validator(mode="after")
    def _recomputes_what_is_kept_elsewhere(self) -> TrainConfig:
        on = self.gradient_checkpointing or self.extra.get("activation_checkpointing")
        for key in ("checkpoint_layers", "offload_activations", "keep_attention"):
            if getattr(self, key) not in (None, False) and not on:
                raise ValueError(f"train.{key} means nothing without train.gradient_checkpointing=true; set that too")
        if self.offload_activations and self.extra.get("activation_offloading"):
            raise ValueError("train.offload_activations takes the place of train.extra.activation_offloading; take one")
        return self

    @model_validator(mode="after")
    def _changes_a_layer_in_one_way(self) -> TrainConfig:
        apart = {
            "compile_layers": ("liger_kernels", "tiled_mlp", "recompute_pointwise", "keep_attention"),
            "liger_kernels": ("recompute_pointwise",),
        }
        for key, others in apart.items():
            for other in others:
                if getattr(self, key) and getattr(self, other):
                    raise ValueError(
                        f"train.{key} and train.{other} change the same parts of a layer; take one of them"
                    )
        return self

    @model_validator(mode="after")
    def _weighs_classes_in_one_way(self) -> TrainConfig:
        if self.class_weights and self.balance_classes:
            raise ValueError("train.class_weights and train.balance_classes=true do the same in two ways; take one")
        return self


class EvaluateConfig(_Group):
    """How base and adapter are compared on held-out rows."""

    max_rows: Count = Field(400, description="held-out rows that are judged; 0 skips evaluation")
    batch_size: PositiveCount = Field(32, description="rows that are answered at once")
    max_new_tokens: PositiveCount = Field(12, description="longest answer, in tokens")
    group_by: Text | None = Field(None, description="column whose values are judged apart, such as country")
    bootstrap_samples: PositiveCount = Field(2000, description="resamplings behind an interval")


class RunConfig(_Group):
    """One run: a recipe, a preset, and six groups of keys."""

    recipe: Text = Field(description="name of a recipe, or path of a recipe file")
    preset: Text = Field("tiny", description="set of values meant for one size of machine")
    task: TaskConfig = Field(default_factory=TaskConfig)
    model: ModelConfig = Field(default_factory=ModelConfig)
    adapter: AdapterConfig = Field(default_factory=AdapterConfig)
    data: DataConfig = Field(default_factory=DataConfig)
    train: TrainConfig = Field(default_factory=TrainConfig)
    evaluate: EvaluateConfig = Field(default_factory=EvaluateConfig)

    @model_validator(mode="after")
    def _label_names_are_labels(self) -> RunConfig:
        labels = self.task.labels or ()
        for given, label in self.data.label_names.items():
            if labels and label.casefold() not in {one.casefold() for one in labels}:
                raise ValueError(f"data.label_names.{given}: '{label}' is not one of task.labels, {', '.join(labels)}")
        return self


GROUPS = ("task", "model", "adapter", "data", "train", "evaluate")
