"""Bugs that are planted to see whether the tests can see them."""

from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
FOLDERS = "tests/checkpoint/test_folders.py"
FINITE = "tests/faults/test_rows.py::test_row[nan"
RESUME = "tests/faults/test_rows.py::test_row[resume"


@dataclass(frozen=True)
class Bug:
    """A change of one place of the package, and the test that must fail with it.

    Attributes:
        file: In the package's folder.
        right: What stands there, once.
        wrong: What takes its place.
        test: Name of a test, as pytest takes it.
    """

    file: str
    right: str
    wrong: str
    test: str

    def applied(self) -> str:
        """Return the file's text with the bug."""
        text = (ROOT / "peftkit" / self.file).read_text(encoding="utf-8")
        assert text.count(self.right) == 1, (self.file, self.right, text.count(self.right))
        return text.replace(self.right, self.wrong)


BUGS = {
    "files are not brought to the disk": Bug(
        "checkpoint/folders.py",
        "        sync_file(file)\n",
        "",
        f"{FOLDERS}::test_the_manifest_and_the_folder_reach_the_disk_before_the_name",
    ),
    "the name is given before the manifest is on the disk": Bug(
        "checkpoint/folders.py",
        "    sync_file(folder / MANIFEST)\n    sync_folder(folder)\n",
        "",
        f"{FOLDERS}::test_the_manifest_and_the_folder_reach_the_disk_before_the_name",
    ),
    "the manifest is not compared": Bug(
        "checkpoint/folders.py",
        'if _sha256(file) != one["sha256"]:',
        "if False:",
        f"{FOLDERS}::test_damage_is_found_and_the_older_one_is_used[state.json-a changed bit]",
    ),
    "a link passes for a file": Bug(
        "checkpoint/folders.py",
        "if file.is_symlink() or not file.is_file():",
        "if not file.is_file():",
        f"{FOLDERS}::test_damage_is_found_and_the_older_one_is_used[state.json-a link]",
    ),
    "the older one is pruned before the new one is read again": Bug(
        "checkpoint/folders.py",
        "        wrong = damage(final)\n",
        "        self._whole.add(step)\n        self._prune()\n        wrong = damage(final)\n",
        f"{FOLDERS}::test_what_reads_back_otherwise_counts_as_not_saved",
    ),
    "one checkpoint is enough": Bug(
        "checkpoint/folders.py",
        "self._keep = max(2, keep)",
        "self._keep = keep",
        f"{FOLDERS}::test_two_at_least_are_kept_and_numbers_are_no_names",
    ),
    "what is damaged is deleted": Bug(
        "checkpoint/folders.py",
        "            path.rename(place)\n",
        "            shutil.rmtree(path)\n",
        f"{FOLDERS}::test_damage_is_found_and_the_older_one_is_used[state.json-half]",
    ),
    "what a killed process left stays": Bug(
        "checkpoint/folders.py",
        "            shutil.rmtree(stale, ignore_errors=True)\n",
        "            pass\n",
        f"{FOLDERS}::test_what_a_killed_process_left_goes_at_the_next_start",
    ),
    "the random state is dropped": Bug(
        "train/checkpointed.py",
        '            set_random(self._resumed.part("random"))\n',
        "            pass\n",
        f"{RESUME}: float32, dropout 0.1, accumulation 4, packing True]",
    ),
    "the order of the rows is not that of the epoch": Bug(
        "train/rows.py",
        "self._sampler.set_epoch(self._epoch)",
        "pass",
        f"{RESUME}: 0 workers]",
    ),
    "weights that are missing stay as they are": Bug(
        "checkpoint/state.py",
        "if name not in saved or name not in places:",
        "if name not in saved or name not in places:\n            continue\n        if False:",
        "tests/train/test_saving.py::test_weights_that_do_not_fit_are_refused",
    ),
    "the optimizer starts afresh": Bug(
        "train/checkpointed.py",
        '            set_optimizer(self.model, self.optimizer, self._resumed.part("optimizer"))\n',
        "",
        f"{RESUME}: float32, dropout 0.1, accumulation 4, packing True]",
    ),
    "the lock is not looked at": Bug(
        "checkpoint/lock.py",
        "        if not _locked(handle):\n",
        "        if False:\n",
        "tests/faults/test_runs.py::test_another_process_is_refused_and_a_dead_one_s_lock_is_taken_over",
    ),
    "a step that is not finite is taken": Bug(
        "train/finite.py",
        "        self._require_finite()\n        return super()._clip_grad_norm(model)",
        "        return super()._clip_grad_norm(model)",
        f"{FINITE}: an output is NaN]",
    ),
    "gradients are not looked at": Bug(
        "train/finite.py",
        "self._finite if scaled else self._finite & norm.isfinite()",
        "self._finite",
        f"{FINITE}: one gradient is NaN]",
    ),
    "handlers of signals stay": Bug(
        "stopping.py",
        "                signal.signal(number, handler)\n",
        "                pass\n",
        "tests/faults/test_runs.py::test_handlers_come_back_and_ignored_signals_stay_ignored",
    ),
    "a torn line of the log stops the run": Bug(
        "train/callbacks.py",
        "        except ValueError:\n            return\n",
        "        except KeyError:\n            return\n",
        "tests/faults/test_rows.py::test_row[points: in the middle of a line of the log 3]",
    ),
    "sets are written as they come": Bug(
        "adapter/attach.py",
        "return sorted(value)",
        "return list(value)",
        "tests/adapter/test_attach.py::test_sets_are_written_in_an_order_of_their_own",
    ),
    "YAML makes any object": Bug(
        "yaml_file.py",
        "Loader=_StrictLoader)  # noqa",
        "Loader=yaml.UnsafeLoader)  # noqa",
        "tests/faults/test_planted.py::test_yaml_makes_no_objects",
    ),
    "a pack may hold any name": Bug(
        "share/archive.py",
        "    if name not in NAMES:\n",
        "    if False:\n",
        "tests/share/test_unpack.py",
    ),
    "pickled weights are read": Bug(
        "adapter/attach.py",
        "    except FileNotFoundError as error:\n        raise AdapterError(f\"'{folder}' is no adapter",
        "    except FileNotFoundError as error:\n        import torch\n\n"
        "        torch.load(folder / 'adapter_model.bin', weights_only=False)\n"
        "        raise AdapterError(f\"'{folder}' is no adapter",
        "tests/share/test_pickles.py::test_a_pickle_in_place_of_weights_is_no_adapter[adapter_model.bin]",
    ),
    "keys are not found in what is shared": Bug(
        "share/secrets.py",
        "found = [kind for kind in dict.fromkeys(kinds_in(text)) if kind in KINDS]",
        "found: list[str] = []",
        "tests/share/test_secrets.py",
    ),
}
