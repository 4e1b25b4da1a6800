"""Whether adapters go together: one base, one kind of model, and at most one that replaces whole modules."""

from __future__ import annotations

from collections.abc import Sequence

from peftkit.adapter.passport import Passport
from peftkit.errors import AdapterError
from peftkit.merge.lora_file import LoraFile, is_saved_whole


def require_one_base(files: Sequence[LoraFile]) -> list[str]:
    """Refuse adapters of different bases; return warnings where that cannot be known for sure.

    Raises:
        AdapterError: The bases differ by the adapters' passports, the tasks, or the shapes of a module.
    """
    first = files[0]
    known = [(file.folder, file.passport.base) for file in files if file.passport is not None]
    for folder, base in known[1:]:
        known_folder, known_base = known[0]
        if base.fingerprint != known_base.fingerprint:
            raise AdapterError(
                f"'{folder}' was trained on other base weights ({base.path}) than '{known_folder}' "
                f"({known_base.path}), by their passports; combine adapters of one base"
            )
    for file in files[1:]:
        tasks = {one.settings.get("task_type") for one in (first, file)} - {None}
        if len(tasks) > 1:
            raise AdapterError(
                f"'{file.folder}' is for {file.settings['task_type']} and '{first.folder}' for "
                f"{first.settings['task_type']}; combine adapters of one kind of model"
            )
        require_one_shape(first, file)
    names = sorted({str(file.settings.get("base_model_name_or_path")) for file in files})
    if len(known) < len(files) and len(names) > 1:
        return [
            f"the adapters name different base models ({', '.join(names)}), and not all have a passport that could "
            "tell whether these are the same; the result fits one base only"
        ]
    return []


def require_one_shape(first: LoraFile, file: LoraFile) -> None:
    """Refuse two adapters that change a module of one name by matrices of two shapes.

    Raises:
        AdapterError: There is such a module.
    """
    for name in first.changes.keys() & file.changes.keys():
        one, other = first.changes[name], file.changes[name]
        if one.factors.shape != other.factors.shape or one.embedding != other.embedding:
            raise AdapterError(
                f"'{file.folder}' changes '{name}' as a matrix of {other.factors.shape} and '{first.folder}' of "
                f"{one.factors.shape}; they are of two bases"
            )


def carrier_of(files: Sequence[LoraFile], weights: Sequence[float]) -> LoraFile:
    """Return the one adapter that has modules saved as a whole; the first where none has.

    Raises:
        AdapterError: There are several, it has a weight, or another adapter changes such a module.
    """
    having = [(file, weight) for file, weight in zip(files, weights, strict=True) if file.whole]
    if not having:
        return files[0]
    name = min(having[0][0].whole)
    if len(having) > 1:
        raise AdapterError(
            f"'{having[0][0].folder}' and '{having[1][0].folder}' both hold whole modules ('{name}'), which cannot be "
            "added up; combine adapters of which at most one was trained with modules_to_save or new tokens"
        )
    file, weight = having[0]
    if weight != 1:
        raise AdapterError(
            f"'{file.folder}' holds whole modules ('{name}'), which have no weight of {weight:g}; give it the weight 1"
        )
    for other in files:
        for module in other.changes:
            if is_saved_whole(module, file.settings):
                raise AdapterError(
                    f"'{other.folder}' changes '{module}', which '{file.folder}' replaces as a whole; leave one out"
                )
    return file


def shared_passport(files: Sequence[LoraFile]) -> Passport | None:
    """Return the first adapter's passport if all have one that names the same tokenizer."""
    passports = [file.passport for file in files if file.passport is not None]
    same = len(passports) == len(files) and len({one.tokenizer.vocabulary_sha256 for one in passports}) == 1
    return passports[0] if same else None
