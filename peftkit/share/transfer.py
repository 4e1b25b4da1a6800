"""Push an adapter to a place, and pull one from there."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from peftkit import machine
from peftkit.errors import ConfigError, OutputError
from peftkit.merge.given import adapter_folder
from peftkit.rundir import atomic_folder
from peftkit.share.hub import REPOSITORY, Hub
from peftkit.share.places import Address, Folder
from peftkit.share.portable import make_portable, require_no_secrets
from peftkit.share.staged import SIGNATURE, check_adapter, hashes, stage_for_sharing
from peftkit.ui import UI

Place = Hub | Folder | Address


def push(
    adapter: Path,
    target: str,
    *,
    public: bool = False,
    tag: str | None = None,
    message: str | None = None,
    token_file: Path | None = None,
    force: bool = False,
    ui: UI | None = None,
) -> dict[str, Any]:
    """Hand an adapter on.

    Args:
        adapter: Its folder, or that of the run that wrote it.
        target: `hf:owner/name` or `owner/name`, a folder, or an address such as `s3://bucket/name`.
        public: On the hub: let everyone see it.
        tag: On the hub: name of the commit.
        message: On the hub: message of the commit.
        token_file: On the hub: a file that holds the token; by default the one of `hf auth login`.
        force: Write where something is already.
        ui: Where progress is shown.

    Returns:
        `place` and `files` with their sha256; of the hub also `revision`, `tag` and `public`.

    Raises:
        PeftkitError: Whatever the user can mend, as one sentence.
    """
    ui = ui or UI(quiet=True)
    machine.quiet_libraries()
    place = find_place(target, token_file)
    if not isinstance(place, Hub) and (public or tag or message):
        raise ConfigError(f"--public, --tag and --message are for the hub, and '{target}' is not on it; leave them out")
    if isinstance(place, Hub):
        place.require_writable(tag)
    with tempfile.TemporaryDirectory(prefix="peftkit-push-") as scratch:
        staged = Path(scratch) / "adapter"
        try:
            own = adapter_folder(adapter)
            stage_for_sharing(own, staged)
            if (staged / SIGNATURE).exists():  # no byte of it may change
                require_no_secrets(staged, own)
            else:
                make_portable(staged, own)
        except OSError as error:
            raise OutputError(f"'{adapter}' cannot be copied to '{staged}': {error.strerror}; mend that") from error
        ui.note(f"pushing {', '.join(sorted(path.name for path in staged.iterdir()))}")
        if isinstance(place, Hub):
            return place.push(staged, public=public, tag=tag, message=message, force=force)
        return place.push(staged, force=force)


def pull(
    source: str, out: Path, *, revision: str | None = None, token_file: Path | None = None, ui: UI | None = None
) -> dict[str, Any]:
    """Fetch an adapter into a new folder, which appears only when all of it is there and checked.

    Args:
        source: As the target of `push`.
        out: The folder to write, which must not exist.
        revision: On the hub: commit, tag or branch; by default `main`.
        token_file: On the hub: a file that holds the token.
        ui: Where progress is shown.

    Returns:
        `place`, `folder`, `files` with their sha256, and of the hub `revision`, the commit.

    Raises:
        PeftkitError: Whatever the user can mend, as one sentence.
    """
    ui = ui or UI(quiet=True)
    place = find_place(source, token_file)
    if not isinstance(place, Hub) and revision:
        raise ConfigError(f"--revision is for the hub, and '{source}' is not on it; leave it out")
    with atomic_folder(out) as folder:
        found = place.pull(folder, revision) if isinstance(place, Hub) else place.pull(folder)
        check_adapter(folder)
    return {**found, "folder": str(out), "files": hashes(out)}


def find_place(word: str, token_file: Path | None = None) -> Place:
    """Return the place that a word names.

    Raises:
        ConfigError: It names none, or could mean two.
    """
    if word.startswith("hf:"):
        repo = word.removeprefix("hf:").removeprefix("//")
        if not REPOSITORY.fullmatch(repo):
            raise ConfigError(f"'{word}' is no repository on the hub; write hf:owner/name")
        return Hub(repo, read_token(token_file))
    if "::" in word:
        raise ConfigError("addresses behind addresses (::) are not taken; copy the files first")
    if word.startswith("file://"):
        return Folder(_local_path(word))
    if "://" in word:
        return Address(word)
    if REPOSITORY.fullmatch(word):
        if Path(word).parent.is_dir():
            raise ConfigError(f"'{word}' may be a folder here, or be on the hub; write ./{word} or hf:{word}")
        return Hub(word, read_token(token_file))
    return Folder(Path(word).expanduser())


def read_token(file: Path | None) -> str | None:
    """Return the token in a file, or the one that huggingface_hub keeps; None where there is none.

    Raises:
        ConfigError: The file cannot be read, or holds no token.
    """
    if file is None:
        from huggingface_hub import get_token

        return get_token()
    try:
        token = file.read_text(encoding="utf-8").strip()
    except (OSError, ValueError):
        raise ConfigError(f"the file of --token-file '{file}' cannot be read; give a file that holds a token") from None
    if not token or len(token.split()) > 1 or not token.isascii() or not token.isprintable():
        raise ConfigError(f"the file of --token-file '{file}' holds no token; it must hold that and nothing else")
    return token


def _local_path(address: str) -> Path:
    from urllib.parse import unquote, urlsplit

    parts = urlsplit(address)
    if parts.netloc not in ("", "localhost"):
        raise ConfigError(f"'{address}' names a machine; write file:///path for a folder of this one")
    return Path(unquote(parts.path))
