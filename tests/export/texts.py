"""Texts that a tokenizer can stumble over: scripts, digits, spaces, code, signs, and control tokens written out."""

import random

PARTS = (
    *("The harbour was quiet", "it's, we'LL, don't", "HELLO World", "snake_case camelCase", "naïve café Straße"),
    *("для всех", "中文字符测试", "日本語のテキスト", "한국어 문장", "العربية", "עברית", "हिन्दी पाठ", "ไทย", "ΑΒΓ ωψχ"),
    *("0", "1234567", "3.14159", "1,000,000.00", "²³½", "٣٤٥", "007 42", "x2y3"),
    *("\n", "\n\n", "\n\n\n", "\r\n", "\t", "\t\t", " ", "  ", "     ", "\u00a0", "\u3000", " \n", "\n ", "  \n\n  "),
    *("def f(x):\n    return x**2", "<div class='a'>", "a=b&&c||d;", "/* -- */", "https://a.b/c?d=e#f", "$x^2$"),
    *("...", "!!!", "?!", "—\u2013-", "“quotes”", "(()[]{})", "@#%^&*", "🙂", "👩‍👩‍👧‍👦", "🇩🇪", "e\u0301", "ﬁ"),
    *("<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_start|>user\n", "<s>", "</s>", "[INST]"),
)


def texts(count: int = 1000, *, controls: bool = True) -> list[str]:
    """Texts that are joined at random from parts and single characters, always the same ones."""
    chance = random.Random(0)
    parts = [part for part in PARTS if controls or ("<" not in part and "[" not in part)]
    found = [*parts]
    while len(found) < count:
        pieces = [chance.choice(parts) for _ in range(chance.randint(1, 8))]
        for _ in range(chance.randint(0, 3)):
            character = chr(
                chance.choice((chance.randint(32, 126), chance.randint(160, 0x2FFF), chance.randint(0x1F300, 0x1FAFF)))
            )
            pieces.insert(chance.randint(0, len(pieces)), character)
        found.append(chance.choice(("", " ")).join(pieces))
    return found[:count]
