"""Chat templates in the shapes of well-known families, each written small, and conversations to write with them."""

import random
from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast

from peftkit.model.load import Source, load_tokenizer

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LLAMA = (
    "{{ bos_token }}{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n"
    "{% if m.tool_calls %}{{ m.tool_calls[0].function | tojson }}{% else %}{{ m.content | trim }}{% endif %}<|eot_id|>"
    "{% endfor %}{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (  # no header before an answer, and the system prompt goes into the last question
    "{{ bos_token }}{% if messages[0].role == 'system' %}{% set system = messages[0].content %}"
    "{% set turns = messages[1:] %}{% else %}{% set turns = messages %}{% endif %}"
    "{% for m in turns %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('roles must alternate') }}{% endif %}"
    "{% if m.role == 'user' %}[INST] "
    "{% if system and m == (turns | selectattr('role', 'equalto', 'user') | list)[-1] %}{{ system }}\n\n{% endif %}"
    "{{ m.content }}[/INST]{% else %} {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
GEMMA = (  # no system role, and the assistant has another name
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'system' %}"
    "{{ raise_exception('System role not supported') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
QWEN = (  # thoughts before the last question are dropped
    "{% set ns = namespace(last=0) %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.last = loop.index0 %}"
    "{% endif %}{% endfor %}"
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.role == 'assistant' and loop.index0 > ns.last and m.reasoning_content %}"
    "<think>\n{{ m.reasoning_content }}\n</think>\n\n"
    "{% elif m.role == 'assistant' and loop.index0 > ns.last and loop.last %}<think>\n\n</think>\n\n{% endif %}"
    "{{ m.content }}{% for call in m.tool_calls %}<tool_call>{{ call.function | tojson }}</tool_call>{% endfor %}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)
R1 = (  # the prompt begins a thought, and the template drops every one that was thought
    "{{ bos_token }}{% for m in messages %}{% if m.role == 'user' %}<user>{{ m.content }}{% else %}"
    "<assistant>{{ m.content.split('</think>')[-1] }}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant><think>\n{% endif %}"
)
RESPONSE = (  # instructions without any control token
    "{% for m in messages %}### {{ m.role }}:\n{{ m.content }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}### assistant:\n{% endif %}"
)


@dataclass(frozen=True)
class Family:
    """A template with its control tokens, the last of which ends a turn, and what stands around an answer."""

    template: str
    controls: tuple[str, ...]
    before: str = ""
    after: str = "<|im_end|>"
    bos: str | None = None

    def tokenizer(self, folder) -> PreTrainedTokenizerFast:
        tokenizer = load_tokenizer(Source(str(folder)))
        named = {"eos_token": self.after} | ({"bos_token": self.bos} if self.bos else {})
        tokenizer.add_special_tokens({"additional_special_tokens": [*self.controls], **named})
        tokenizer.chat_template = self.template
        return tokenizer


HEADERS = ("<|start_header_id|>", "<|end_header_id|>")
FAMILIES = {
    "chatml": Family(CHATML, ("<|im_start|>",)),
    "llama-3": Family(LLAMA, HEADERS, after="<|eot_id|>", bos="<|begin_of_text|>"),
    "mistral": Family(MISTRAL, ("[INST]", "[/INST]"), before=" ", after="</s>", bos="<s>"),
    "gemma": Family(GEMMA, ("<start_of_turn>",), after="<end_of_turn>", bos="<bos>"),
    "qwen-3": Family(QWEN, ("<|im_start|>",), before="<think>\n\n</think>\n\n"),
    "r1": Family(R1, ("<user>", "<assistant>"), after="<end>", bos="<begin>"),
    "response": Family(RESPONSE, (), after="</s>"),
}

_THINGS = ("the river", "a violin", "the harbour", "an engine", "the garden", "a letter")


def conversations(number: int, *, seed: int = 0, turns: int = 2) -> list[list[dict[str, str]]]:
    """Return sample conversations of questions and answers; the same ones for a seed."""
    chance = random.Random(seed)
    made = []
    for place in range(number):
        messages = []
        for turn in range(chance.randint(1, turns)):
            thing, count = chance.choice(_THINGS), chance.randint(2, 99)
            messages.append({"role": "user", "content": f"{place}.{turn} What of {thing}, {count} times over?"})
            messages.append({"role": "assistant", "content": f"Take {thing} {count} times."})
        made.append(messages)
    return made
