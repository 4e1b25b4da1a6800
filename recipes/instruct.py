"""Conversations of your own: the assistant's turns are learned, after everything that was said before them.

It needs a file (`data.path=chats.jsonl`): messages of roles and contents, ShareGPT's conversations, Alpaca's
instructions, or pairs of prompt and completion. `peftkit check` shows which of them it took a file for, and which
words are trained. A system prompt for conversations that have none is `task.system`.
"""

from peftkit import Recipe
from peftkit_recipes.presets import on_gpu, tiny

BATCH = {"per_device_train_batch_size": 2, "gradient_accumulation_steps": 8}

recipe = Recipe(
    name="instruct",
    summary="Answer as the assistant of your conversations does; needs a file of them.",
    columns={"messages": ("messages", "conversations", "conversation", "dialogue", "dialog", "chat", "turns")},
    metrics=("loss", "perplexity", "token_accuracy"),
    intended_use="Answers messages in the manner of the conversations that it was trained on.",
    defaults={
        "task": {"kind": "chat"},
        "evaluate": {"max_new_tokens": 512},
    },
    presets={
        "tiny": tiny(train_rows=400, train={"max_length": 512}, evaluate={"max_rows": 100, "max_new_tokens": 128}),
        "12gb": on_gpu(12, "Qwen/Qwen3-4B-Instruct-2507", {"max_length": 2048, **BATCH}),
        "24gb": on_gpu(24, "Qwen/Qwen3-8B", {"max_length": 4096, **BATCH}),
        "48gb": on_gpu(48, "Qwen/Qwen3-32B", {"max_length": 4096, "learning_rate": 1e-4, **BATCH}),
    },
)
