"""A model for Ollama: a GGUF file, and a Modelfile whose template gives the tokens of the model's own chat template.

Ollama no longer makes models from adapters, so the merged model is written.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.errors import ModelError
from peftkit.export.conversation import Joints, find_joints, shapes, trims
from peftkit.export.gguf_model import export_gguf, say_gguf
from peftkit.export.whole import Whole
from peftkit.model.load import load_tokenizer
from peftkit.rundir import atomic_folder, require_new, write_text
from peftkit.ui import UI

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MODEL = "model.gguf"
MODELFILE = "Modelfile"


def export_ollama(whole: Whole, out: Path, *, dtype: str = "q8_0", ui: UI | None = None) -> dict[str, Any]:
    """Write a folder from which `ollama create NAME -f Modelfile` makes a model.

    Args:
        whole: The model.
        out: The folder, which must not exist.
        dtype: One of `peftkit.export.gguf_model.DTYPES`.
        ui: Where progress is shown.

    Returns:
        As `peftkit.export.gguf_model.export_gguf`, and `template`, `stop` and `system`.

    Raises:
        ModelError: The chat template does more than a Go template can, or the model cannot be written.
        PeftkitError: As `export_gguf`.
    """
    ui = ui or UI(quiet=True)
    require_new(out)
    tokenizer = load_tokenizer(whole.source)
    joints = ollama_joints(tokenizer, whole.template_arguments)
    template, stop = joints.go_template(), stop_words(tokenizer, joints)
    system = whole.system if joints.start_system is not None and '"""' not in (whole.system or "") else None
    cautions = _cautions(whole, tokenizer, takes_system=joints.start_system is not None, told=system is not None)
    with atomic_folder(out) as folder:
        report = export_gguf(whole, folder / MODEL, dtype=dtype, ui=ui)
        write_text(folder / MODELFILE, modelfile(template, stop, system))
    for text in cautions:
        ui.note(text)
    report |= {"out": str(out), "to": "ollama", "template": template, "stop": stop, "system": system}
    report["warnings"] += cautions
    say_gguf(report, ui)
    called = re.sub(r"[^a-z0-9._-]+", "-", whole.name.lower())  # what Ollama takes for a name
    ui.say(shlex.join(["ollama", "create", called, "-f", str(out / MODELFILE)]))
    return report


def _cautions(whole: Whole, tokenizer: PreTrainedTokenizerBase, *, takes_system: bool, told: bool) -> list[str]:
    """Say what Ollama does otherwise than the model's chat template and its training."""
    cautions = ["Ollama joins messages of one role that follow each other, and this template knows no tools"]
    if trims(tokenizer):
        cautions.append("the model's chat template takes away space around messages, and a Go template does not")
    if "strftime_now" in (tokenizer.chat_template or ""):
        cautions.append("the model's chat template writes the date, which stays today's in the Modelfile")
    if not takes_system:
        cautions.append("the model's chat template takes no system message, so one is left out")
    if whole.system and not told:
        cautions.append(f"the adapter was trained with the system message '{whole.system}', which Ollama is not given")
    if whole.prompt != "{text}":
        cautions.append(f"the adapter was trained on prompts of the form '{whole.prompt}', which Ollama does not write")
    return cautions


def ollama_joints(tokenizer: PreTrainedTokenizerBase, arguments: Mapping[str, Any] | None = None) -> Joints:
    """Return what stands around messages in a prompt for Ollama, proved token by token.

    Where the tokenizer puts a token at the start of every text, llama.cpp does too, so the template must not.

    Args:
        tokenizer: The model's tokenizer.
        arguments: Named arguments of its chat template.

    Raises:
        ModelError: The template cannot be derived, or would give other tokens.
    """
    joints = find_joints(tokenizer, arguments)
    bare = joints
    start = tokenizer.bos_token
    if start is not None and tokenizer("a")["input_ids"][0] == tokenizer.bos_token_id:
        bare = joints.without_start(start)
    for messages in shapes(system=joints.start_system is not None):
        expected = tokenizer(joints.write(messages), add_special_tokens=False)["input_ids"]
        if tokenizer(bare.write(messages))["input_ids"] != expected:
            raise ModelError(
                f"a Go template would give '{tokenizer.name_or_path}' other tokens than its own chat template; export "
                "with --to gguf and write a Modelfile"
            )
    return bare


def stop_words(tokenizer: PreTrainedTokenizerBase, joints: Joints) -> list[str]:
    """Return the control tokens at which an answer ends: that of the template, and the tokenizer's own.

    Args:
        tokenizer: The model's tokenizer.
        joints: What stands around messages.
    """
    controls = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    after = joints.assistant_user.strip()
    ends = [token for token in controls if after.startswith(token)]
    return sorted({*ends, *([tokenizer.eos_token] if tokenizer.eos_token else [])})


def modelfile(template: str, stop: list[str], system: str | None = None) -> str:
    """Return the text of a Modelfile.

    Args:
        template: A Go template without three quotes in a row.
        stop: Texts at which an answer ends.
        system: The system message of conversations that bring none; without three quotes in a row.
    """
    lines = [f"FROM ./{MODEL}", f'TEMPLATE """{template}"""', *(f'PARAMETER stop "{word}"' for word in stop)]
    if system:
        lines.append(f'SYSTEM """{system}"""')
    return "\n".join(lines) + "\n"
