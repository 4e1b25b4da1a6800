"""Configuration files that were written to harm, and how each ends: with one sentence, or as plain values."""

from dataclasses import dataclass

LOADS = ""


@dataclass(frozen=True)
class Payload:
    """A file, and a part of what is said of it; `LOADS` where it is harmless as it is read here."""

    content: bytes
    says: str


BOMB = b"a: &a [x, x]\n" + b"".join(
    b"%c: &%c [*%c, *%c]\n" % (n, n, n - 1, n - 1) for n in b"bcdefghijklmnopqrstuvwxyz"
)


def extra(value: bytes) -> bytes:
    return b"model:\n  chat_template_kwargs:\n    a: " + value + b"\n"


PAYLOADS = {
    "object": Payload(b"!!python/object/apply:os.system ['touch ran']", "tags such as"),
    "new object": Payload(extra(b"!!python/object/new:os.system ['touch ran']"), "line 3: tags such as"),
    "module": Payload(extra(b"!!python/module:antigravity"), "line 3: tags such as"),
    "name": Payload(extra(b"!!python/name:os.system"), "line 3: tags such as"),
    "own tag": Payload(b"%TAG ! tag:yaml.org,2002:python/\n---\ntrain: !name:os.system x", "line 3: tags such as"),
    "date by tag": Payload(extra(b"!!timestamp 2026-01-01"), "line 3: tags such as"),
    "bytes by tag": Payload(extra(b"!!binary /w=="), "line 3: tags such as"),
    "set by tag": Payload(extra(b"!!set {x, y}"), "line 3: tags such as"),
    "alias bomb": Payload(BOMB, "line 2: aliases are not allowed"),
    "alias of itself": Payload(b"train: &a\n  extra: *a", "line 2: aliases are not allowed"),
    "merge of itself": Payload(b"train: &a\n  <<: *a", "line 2: aliases are not allowed"),
    "merge": Payload(b"train:\n  <<: {seed: 5}", "unknown key 'train.<<.seed'"),
    "lists in lists": Payload(b"[" * 30_000, "nested too deeply"),
    "100,000 lists in lists": Payload(b"[" * 100_000, "larger than 65,536 bytes"),
    "groups in groups": Payload(b"{a: " * 15_000, "nested too deeply"),
    "blocks in blocks": Payload(b"".join(b" " * n + b"a:\n" for n in range(300)), "nested too deeply"),
    "key twice": Payload(b"train:\n  seed: 1\n  seed: 2", "line 3: key 'seed' stands twice"),
    "key twice by a dot": Payload(b"train:\n  seed: 1\ntrain.seed: 2", "key 'train.seed' is given twice"),
    "50 MB": Payload(b"# \n" * (50_000_000 // 3), "larger than 65,536 bytes"),
    "many keys": Payload(b"".join(b"k%d: 1\n" % n for n in range(2_450)), "unknown key 'k0'"),
    "long list": Payload(b"task:\n  labels: [" + b"a," * 4_900 + b"b]", "at least two different"),
    "longer list": Payload(b"task:\n  labels: [" + b"a," * 32_000 + b"b]", "line 2: it holds more than 5,000 keys and"),
    "many names": Payload(b"data:\n  label_names: {" + b"".join(b"%d: a," % n for n in range(2_450)) + b"}", "'a'"),
    "long key": Payload(b"? " + b"k" * 60_000 + b"\n: 1", "unknown key 'kkkk"),
    "long text": Payload(b"train:\n  optim: " + b"x" * 60_000, "is no optimizer"),
    "long text of a choice": Payload(b"task:\n  kind: " + b"x" * 60_000, "is not one of"),
    "long path": Payload(b"task:\n  prompt: '{" + b"x" * 60_000 + b"}'", "is no column"),
    "bytes": Payload(bytes(range(128, 256)) * 100, "is not UTF-8 text (byte 0)"),
    "NUL": Payload(b"train:\n  seed: 1\0", "special characters are not allowed"),
    "tab": Payload(b"train:\n\tseed: 1", "cannot start any token"),
    "huge number": Payload(b"train:\n  seed: " + b"9" * 5_000, "Exceeds the limit"),
    "large number": Payload(b"train:\n  seed: " + b"9" * 4_000, "train.seed"),
    "large number for a float": Payload(b"train:\n  learning_rate: " + b"9" * 4_000, "train.learning_rate"),
    "large number of an argument": Payload(b"train:\n  optim_args: {beta1: " + b"9" * 4_000 + b"}", "train.optim_args"),
    "no number": Payload(extra(b".nan"), "a finite number is expected"),
    "infinite": Payload(extra(b"[1, {b: -.inf}]"), "a finite number is expected"),
    "half a character": Payload(extra(b'"\\ud800"'), "half a character"),
    "half a character of a choice": Payload(b'adapter:\n  method: "\\ud800"', "adapter.method: a text holds half a"),
    "no number of an argument": Payload(b"train:\n  optim_args: {beta1: .nan}", "train.optim_args.beta1"),
    "key of half a character": Payload(b'model: {chat_template_kwargs: {"\\udc00": 1}}', "half a character"),
    "keys of other types": Payload(extra(b"{1: x, true: y, null: z, 2.5: w}"), LOADS),
    "list as a key": Payload(b"? [train]\n: 1", "a key must be one word"),
    "two documents": Payload(b"train: {seed: 1}\n---\ntrain: {seed: 2}", "another document"),
    "date": Payload(b"model:\n  revision: 2026-01-01", LOADS),
    "octal": Payload(b"model:\n  revision: 0123456", LOADS),
    "hexadecimal": Payload(b"train:\n  seed: 0x10", "train.seed: '0x10'"),
    "sixties": Payload(b"train:\n  seed: 1:30", "train.seed: '1:30'"),
    "words for no": Payload(b"task:\n  labels: [yes, no]", LOADS),
    "recipe by a module": Payload(b"recipe: os.system", "os.system"),
    "remote code": Payload(b"model:\n  extra: {trust_remote_code: true}", "is refused"),
    "terminal": Payload(b'"\\e]0;x\\a": 1', "unknown key"),
}
"""By name. Each is given to `--config` beside the recipe `sentiment`, whose labels are negative and positive."""
