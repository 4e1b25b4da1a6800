"""Settings that no adapter needs, as the text of an `adapter_config.json`: one that is read, but for one thing."""

import json

GOOD = {
    "peft_type": "LORA",
    "task_type": "CAUSAL_LM",
    "base_model_name_or_path": "somebody/model",
    "r": 4,
    "lora_alpha": 8,
    "target_modules": ["q_proj", "v_proj"],
    "auto_mapping": {"base_model_class": "Qwen3ForCausalLM", "parent_library": "transformers.models.qwen3"},
}


def with_(**values) -> bytes:
    return json.dumps(GOOD | values).encode()


def text(extra: str) -> bytes:
    """The good settings, and more of JSON as it stands there."""
    return (json.dumps(GOOD)[:-1] + f", {extra}}}").encode()


def nested(depth: int) -> bytes:
    return text('"x": ' + "[" * depth + "]" * depth)


EVIL = {"base_model_class": "Evil", "parent_library": "evil_module"}
# Each makes Python's `re` search for ages on a name of thirty letters.
CATASTROPHIC = (
    r"(a+)+$",
    r"(\w+\.?)+!",
    r"(.*a){20}",
    r".*.*.*.*.*.*.*x",
    r"(a|aa)+$",
    r"([a-z]+)*\d",
    "a?" * 40 + "a" * 40,
    r"(.*)*",
    r"(?:(?:a*)*)*b",
    r"(\w+)\1+\1+!",
)
SETTINGS: dict[str, bytes] = {
    "a module to import": with_(auto_mapping=EVIL),
    "a module of the system": with_(auto_mapping={"base_model_class": "system", "parent_library": "os"}),
    "a module that is called nearly as one": with_(auto_mapping=EVIL | {"parent_library": "transformers_evil.models"}),
    "a module in another way": with_(auto_mapping="evil_module"),
    "another core of Megatron": with_(megatron_config={}, megatron_core="evil_module"),
    "settings of Megatron": with_(megatron_config={"tensor_model_parallel_size": 2}),
    "a cache to unpickle": with_(corda_config={"cache_file": "/tmp/evil.pt"}),
    "covariances to unpickle": with_(corda_config={"covariance_file": "../evil.pt"}),
    "a cache of gradients": with_(lora_ga_config={"cache_file": "/tmp/evil.pt"}),
    "a state to load": with_(prompt_tuning_init_state_dict_path="/tmp/evil.bin"),
    "other adapters to load": with_(peft_type="XLORA", adapters={"0": "/etc"}),
    "a rank of a billion": with_(r=10**9),
    "a rank that is negative": with_(r=-5),
    "a rank as a text": with_(r="4"),
    "a rank that is true": with_(r=True),
    "a rank of a module": with_(rank_pattern={"q_proj": 10**8}),
    "a rank beyond all numbers": text('"r": 1' + "0" * 5000),
    "a rank of many digits": text('"init_r": 1' + "0" * 400),
    "tokens without end": with_(peft_type="PROMPT_TUNING", num_virtual_tokens=10**9),
    "a huge encoder": with_(peft_type="P_TUNING", encoder_hidden_size=2**40),
    "layers without end": with_(layer_replication=[[0, 10**9]]),
    "layers again and again": with_(layer_replication=[[0, 4000]] * 4000),
    "layers backwards": with_(layer_replication=[[9, 2]]),
    "alpha that is no number": text('"lora_alpha": NaN'),
    "alpha without bound": text('"lora_alpha": Infinity'),
    "alpha beyond all numbers": text('"lora_alpha": 1e999'),
    "alpha as a table": with_(lora_alpha={"q": 1}),
    "a switch as a text": with_(use_dora="yes"),
    "targets that are numbers": with_(target_modules=[1, 2]),
    "targets as a table": with_(target_modules={"q_proj": 1}),
    "ranks as a list": with_(rank_pattern=["q_proj"]),
    "a kind that is a list": with_(peft_type=["LORA"]),
    "a base with control characters": with_(base_model_name_or_path="model\x1b[2J\n"),
    "a base without end": with_(base_model_name_or_path="a/" * 40_000),
    "the same name twice": text('"r": 100'),
    "nested a little too deeply": nested(8),
    "nested beyond recursion": nested(100_000),
    "a million targets": with_(target_modules=[f"m{number}" for number in range(10**6)]),
    "two hundred thousand names": with_(**{f"x{number}": 0 for number in range(200_000)}),
    "a million patterns": with_(rank_pattern={f"m{number}": 4 for number in range(10**6)}),
    "twenty thousand patterns": with_(alpha_pattern={f"m{number}": 4 for number in range(20_000)}),
    "a text of a megabyte": with_(x="a" * 10**6),
    "a name of a megabyte": with_(**{"a" * 10**6: 1}),
    "no object": b"[]",
    "a text alone": b'"LORA"',
    "a pickle": b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
    "no UTF-8": b'{"peft_type": "\xff\xfe"}',
    "nothing": b"",
    "many megabytes of space": json.dumps(GOOD).encode() + b" " * 10**8,
    "no pattern": with_(target_modules="(q_proj"),
    **{f"targets {pattern[:20]}": with_(target_modules=pattern) for pattern in CATASTROPHIC},
    "excluded for ages": with_(exclude_modules=CATASTROPHIC[0]),
    "kept whole for ages": with_(modules_to_save=[CATASTROPHIC[0]]),
    "layers for ages": with_(layers_pattern=CATASTROPHIC[0], layers_to_transform=[0]),
    "ranks for ages": with_(rank_pattern={CATASTROPHIC[0]: 4}),
    "scales for ages": with_(alpha_pattern={CATASTROPHIC[0]: 4}),
    "forward for ages": with_(peft_type="IA3", feedforward_modules=CATASTROPHIC[0]),
    "many patterns that take long together": with_(rank_pattern={f"{'.*' * 3}{number}": 4 for number in range(9000)}),
    "a pattern of a megabyte": with_(target_modules="(a|b)" * 12_000),
    "a pattern nested deeply": with_(target_modules="(" * 5000 + ")" * 5000),
}
