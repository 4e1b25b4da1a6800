"""Random valid configurations: the plan answers each, or names what it cannot model, and never crashes."""

import random

import pytest

from peftkit import machine
from peftkit.adapter.methods import METHODS
from peftkit.errors import ConfigError, MissingDependencyError, NotModelledError
from peftkit.plan.cards import find_card
from peftkit.plan.plan import Plan, forecasts_of, subject_of
from peftkit.plan.rates import this_machine
from peftkit.plan.shapes import known_settings
from peftkit.resolve import resolve
from peftkit.train.optimizers import OPTIMIZERS

machine.quiet_libraries()
NARROW = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "vocab_size": 500,
}
DECODERS = (
    "meta-llama/Llama-3.2-1B",
    "Qwen/Qwen2.5-0.5B",
    "Qwen/Qwen3-0.6B",
    "mistralai/Mistral-7B-v0.3",
    "google/gemma-2-2b",
    "google/gemma-3-1b",
    "microsoft/Phi-3.5-mini",
)
ENCODERS = ("bert-base-uncased", "roberta-base")
RECIPES = {
    "sentiment": (*DECODERS, *ENCODERS),
    "classification": (*DECODERS, *ENCODERS, "t5-small"),
    "regression": (*DECODERS, *ENCODERS),
    "instruct": DECODERS,
    "summarization": (*DECODERS, "t5-small"),
}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The configurations of narrow models of every kind, each of three to twelve layers."""
    made = {}
    for place, name in enumerate(dict.fromkeys(name for names in RECIPES.values() for name in names)):
        settings = known_settings(name)
        layers = (3, 12, 4)[place % 3]
        if settings.model_type == "t5":
            settings.num_layers = settings.num_decoder_layers = layers
        else:
            for key, value in NARROW.items():
                if hasattr(settings, key):
                    setattr(settings, key, value)
            settings.num_hidden_layers = layers
            settings.pad_token_id = 0
            if getattr(settings, "layer_types", None):
                settings.layer_types = settings.layer_types[:layers]
        made[name] = tmp_path_factory.mktemp("narrow")
        settings.save_pretrained(made[name])
    return made


def values_of(choose: random.Random, folders) -> tuple[str, dict]:
    """Draw a recipe and values for its keys."""
    recipe = choose.choice(tuple(RECIPES))
    model = choose.choice(RECIPES[recipe])
    method = choose.choice(("lora", "lora", "lora", *METHODS))
    adapter = {"method": method}
    if method == "lora":
        adapter |= {"r": choose.choice((1, 8, 64)), "use_dora": choose.random() < 0.2}
        adapter |= {"use_rslora": choose.random() < 0.2, "lora_dropout": choose.choice((0, 0.1))}
    train = {
        "per_device_train_batch_size": choose.choice((1, 2, 8)),
        "gradient_accumulation_steps": choose.choice((1, 2, 16)),
        "max_length": choose.choice((16, 64, 256)),
        "gradient_checkpointing": choose.random() < 0.5,
        "packing": choose.random() < 0.2,
        "label_smoothing": choose.choice((0, 0, 0.1)),
        "neftune_noise_alpha": choose.choice((0, 0, 5)),
        "optim": choose.choice(("adamw", *OPTIMIZERS)),
        "max_steps": choose.choice((0, 100)),
        "lr_scheduler_type": "constant",
    }
    held = {
        "path": str(folders[model]),
        "quantization": choose.choice(("none", "nf4", "fp4", "int8")),
        "dtype": choose.choice(("auto", "auto", "float32", "bfloat16", "float16")),
    }
    task = {"answer": choose.choice(("auto", "head"))} if recipe == "classification" else {}
    rows = {"path": "-"} if choose.random() < 0.8 else {}
    judged = {"max_rows": choose.choice((0, 40)), "batch_size": choose.choice((1, 8))}
    return recipe, {
        "model": held,
        "adapter": adapter,
        "train": train,
        "task": task,
        "data": rows,
        "evaluate": judged,
    }


@pytest.mark.parametrize(
    ("count", "seed"), [(16, 1), pytest.param(200, 2, marks=[pytest.mark.slow, pytest.mark.timeout(7200)])]
)
def test_every_valid_configuration_is_answered(count, seed, folders) -> None:
    choose = random.Random(seed)
    cards = [find_card("24GB"), find_card("T4"), this_machine()]
    answered, refused = 0, []
    while answered + len(refused) < count:
        recipe, values = values_of(choose, folders)
        try:
            resolved = resolve(recipe, values=values)
        except (ConfigError, MissingDependencyError):
            continue  # not a valid configuration
        try:
            subject = subject_of(resolved)
            found = forecasts_of(subject, [choose.choice(cards)])
        except ConfigError:  # what only the model's own shape shows to be wrong
            continue
        except NotModelledError as error:
            refused.append(f"{error}")
            continue
        (one,) = found
        assert one.memory.total > one.memory.training > 0, values
        assert sum(one.memory.components.values()) == one.memory.training, values
        assert one.step.low <= one.step.middle <= one.step.high, values
        assert Plan(subject, found, []).as_json()["forecasts"][0]["fits"] in (True, False)
        answered += 1
    print("\n".join(refused))
    assert len(refused) < 0.15 * count, refused
