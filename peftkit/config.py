"""What a run is, as frozen, validated data.

`RunConfig` is the one statement of every key, its type, its default and its help text. A key is written the same way
everywhere: `train.learning_rate` in a YAML file (nested), on the command line (`train.learning_rate=2e-4`), and as an
attribute in Python (`config.train.learning_rate`). `peftkit.resolve` builds one from a recipe, a file and words.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator


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


Count = Annotated[int, BeforeValidator(_no_bool), Field(ge=0)]
PositiveCount = Annotated[int, BeforeValidator(_no_bool), Field(ge=1)]
Number = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, allow_inf_nan=False)]
PositiveNumber = Annotated[float, BeforeValidator(_no_bool), Field(gt=0, allow_inf_nan=False)]
Share = Annotated[float, BeforeValidator(_no_bool), Field(ge=0, le=1)]
Text = Annotated[str, BeforeValidator(_no_number)]
Words = Annotated[tuple[Text, ...], BeforeValidator(_words)]

Quantization = Literal["none", "nf4", "fp4", "int8"]
Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Split = Literal["train", "validation", "test"]


class _Group(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class TaskConfig(_Group):
    """What the model is asked, and what it may answer."""

    system: Text | None = Field(None, description="system message; {labels} stands for the list of labels")
    prompt: Text = Field("{text}", description="user message; {column} stands for a column of the data")
    completion: Text = Field("{label}", description="the answer that is trained; {column} stands for a column")
    labels: Words | None = Field(None, description="the answers that are allowed, such as negative,positive")

    @model_validator(mode="after")
    def _labels_are_distinct(self) -> TaskConfig:
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
    attn_implementation: Text | None = Field(None, description="attention kernel; empty lets transformers choose")
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

    method: Literal["lora"] = Field("lora", description="the PEFT method")
    r: PositiveCount = Field(16, description="rank of the update matrices")
    lora_alpha: PositiveNumber = Field(
        32, description="scale of the update: lora_alpha / r (or / sqrt(r) with use_rslora)"
    )
    lora_dropout: Annotated[float, BeforeValidator(_no_bool), Field(ge=0, lt=1)] = Field(
        0.0, description="dropout before the update"
    )
    target_modules: Words = Field(("all-linear",), description="layers that get an adapter; names or all-linear")
    use_rslora: bool = Field(False, description="rank-stabilised scaling (arXiv 2312.03732)")
    use_dora: bool = Field(False, description="weight-decomposed update (arXiv 2402.09353)")
    extra: dict[str, Any] = Field({}, description="more named arguments of the PEFT configuration")


class DataConfig(_Group):
    """Where rows come from, and what happens to bad ones."""

    path: Text | None = Field(None, description="file with your rows; empty takes the recipe's embedded data")
    test_path: Text | None = Field(None, description="file with held-out rows; empty splits data.path")
    columns: dict[str, Text] = Field({}, description="your name of a column, such as data.columns.text=review")
    label_names: dict[str, Text] = Field({}, description="your value of a label, such as data.label_names.1=positive")
    on_bad_row: Literal["error", "skip"] = Field("error", description="stop at a bad row, or leave it out")
    max_bad_fraction: Share = Field(0.01, description="with on_bad_row=skip: the largest share of bad rows")
    train_rows: PositiveCount | None = Field(None, description="use at most this many training rows")
    validation_fraction: Share = Field(0.05, description="share of rows that go to validation")
    test_fraction: Share = Field(0.1, description="share of rows that are held out for evaluation")

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
    optim: Text = Field("adamw_torch", description="optimizer, by transformers' name")
    lr_scheduler_type: Text = Field("linear", description="learning-rate schedule, by transformers' name")
    warmup_fraction: Share = Field(0.05, description="share of the steps over which the learning rate rises")
    weight_decay: Number = Field(0.0, description="decoupled weight decay")
    max_grad_norm: Number = Field(1.0, description="clip the gradient's norm to this; 0 does not clip")
    gradient_checkpointing: bool = Field(False, description="recompute activations: less memory, a third slower")
    group_by_length: bool = Field(True, description="batches of rows of like length: less padding")
    packing: bool = Field(False, description="pack rows into sequences of max_length without padding")
    logging_steps: PositiveCount = Field(1, description="steps between lines of metrics.jsonl")
    save_steps: Count = Field(0, description="steps between checkpoints; 0 saves at the end of each epoch")
    save_total_limit: PositiveCount = Field(2, description="checkpoints that are kept")
    seed: Annotated[Count, Field(lt=2**32)] = Field(
        0, description="seed of the adapter's start, the order of rows, and dropout"
    )
    extra: dict[str, Any] = Field({}, description="more named arguments of TRL's SFTConfig")


class EvaluateConfig(_Group):
    """How base and adapter are compared on held-out rows."""

    max_rows: Count = Field(400, description="held-out rows that are judged; 0 skips evaluation")
    batch_size: PositiveCount = Field(32, description="rows that are answered at once")
    max_new_tokens: PositiveCount = Field(12, description="longest answer, in tokens")
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
