"""Sign an adapter or a pack, and verify it: a manifest of hashes under an OpenSSF model signature, without a network.

The signature is a Sigstore bundle that any tool of OpenSSF's model-signing verifies. It is made with a key on an
elliptic curve (P-256, P-384 or P-521). A folder holds its signature as `model.sig`; that of a pack stands beside it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftkit.adapter.passport import MOST_BYTES, PASSPORT, Passport, read_passport
from peftkit.config import ModelConfig
from peftkit.errors import AdapterError, ConfigError, MissingDependencyError, OutputError, first_line
from peftkit.merge.given import adapter_folder
from peftkit.rundir import require_new, write_text
from peftkit.share.archive import content, read_directory
from peftkit.share.staged import SIGNATURE
from peftkit.share.unpack import opened
from peftkit.ui import UI

_LARGEST = 1 << 20  # of a signature or a key


def new_key(private: Path, *, ui: UI | None = None) -> Path:
    """Make a pair of keys on P-256: the private one that nobody else can read, and the public one to give away.

    Args:
        private: File of the private key, such as `mine.pem`; the public one is `mine.pub.pem`.
        ui: Where the result is said.

    Returns:
        The public key's file.

    Raises:
        OutputError: One of them exists or cannot be written.
    """
    with _library():
        from cryptography.hazmat.primitives import serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    public = private.with_name(f"{private.name.removesuffix('.pem')}.pub.pem")
    require_new(private)
    require_new(public)
    key = ec.generate_private_key(ec.SECP256R1())
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    open_text = key.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    for path, data, mode in ((private, secret, 0o600), (public, open_text, 0o644)):
        try:
            handle = os.open(
                path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode
            )  # never readable by others, not even once
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
        except OSError as error:
            raise OutputError(f"'{path}' cannot be written: {error.strerror}; give another name") from error
    if ui is not None:
        ui.say(f"{private}: keep it to yourself; it is not encrypted")
        ui.say(f"{public}: give it to those who verify what you sign")
    return public


def sign(what: Path, key: Path, *, ui: UI | None = None) -> dict[str, Any]:
    """Sign an adapter's folder or a pack.

    Args:
        what: The folder of an adapter or of a run, or a pack.
        key: File of the private key, PEM.
        ui: Where the result is said.

    Returns:
        `what` was signed, and the file of its `signature`.

    Raises:
        ConfigError: The key cannot be used.
        AdapterError: There is no adapter or pack, or it holds links or devices.
        OutputError: It is signed already, or the signature cannot be written.
    """
    what, signature = _parts(what)
    _require_small(key, "key", ConfigError)
    require_new(signature)
    with _library():
        from model_signing.signing import Config
    try:
        config = Config().use_elliptic_key_signer(private_key=key)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(
            f"'{key}' is no private key that can be used ({first_line(error)}); make one with peftkit sign --new-key"
        ) from error
    with tempfile.TemporaryDirectory() as scratch:  # elsewhere: nothing may come to a folder while it is hashed
        made = Path(scratch) / signature.name
        try:
            config.set_hashing_config(_hashing(what)).sign(what, made)
        except ValueError as error:
            raise AdapterError(f"'{what}' cannot be signed: {first_line(error)}") from error
        write_text(signature, made.read_text(encoding="utf-8"))
    if ui is not None:
        ui.say(f"{signature}: the signature of {what}")
    return {"what": str(what), "signature": str(signature)}


def verify_signature(what: Path, key: Path, *, base: str | None = None, ui: UI | None = None) -> dict[str, Any]:
    """Verify that an adapter or a pack is what its signer signed, file for file, and belongs to a base model.

    Args:
        what: The folder of an adapter or of a run, or a pack.
        key: File of the signer's public key, PEM.
        base: A base model that it must belong to by its passport.
        ui: Where the result is said.

    Returns:
        `what` was verified, its `signature`, and the `base` that it was compared with.

    Raises:
        ConfigError: The key cannot be used.
        AdapterError: There is no signature, it is another key's, a file was changed, added or taken away, or the base
            is another one.
    """
    what, signature = _parts(what)
    _require_small(key, "key", ConfigError)
    _require_small(signature, "signature", AdapterError)
    with _library():
        from model_signing.verifying import Config
    try:
        config = Config().use_elliptic_key_verifier(public_key=key)
    except (ValueError, TypeError, OSError) as error:
        raise ConfigError(f"'{key}' is no public key that can be used ({first_line(error)})") from error
    config.set_hashing_config(_hashing(what))
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # the library prints advice to signers
            config.verify(what, signature)
    except Exception as error:  # whatever a forged signature makes of the library
        raise AdapterError(f"'{what}' is not what was signed: {_why(error, key, signature)}") from error
    if base is not None:
        _require_base(what, base, ui)
    if ui is not None:
        ui.say(f"{what}: every file is as it was signed with the key of {key}")
        if base is not None:
            ui.say(f"it belongs to {base}")
    return {"what": str(what), "signature": str(signature), "base": base}


@contextlib.contextmanager
def _library() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise MissingDependencyError(
            "signatures need OpenSSF's model-signing; install it with: pip install 'peftkit[sign]'"
        ) from error


def _parts(what: Path) -> tuple[Path, Path]:
    """Return what is signed, and where its signature usually is."""
    if what.is_file():
        return what, what.with_name(f"{what.name}.sig")
    folder = adapter_folder(what)
    return folder, folder / SIGNATURE


def _hashing(what: Path) -> Any:
    """Return how files are hashed: all of them, but for the signature; also those that git would leave out."""
    from model_signing import hashing

    paths = [Path(SIGNATURE)] if what.is_dir() else []
    return hashing.Config().use_file_serialization().set_ignored_paths(paths=paths, ignore_git_paths=False)


def _require_small(path: Path, kind: str, error: type[ConfigError] | type[AdapterError]) -> None:
    """Refuse a key or signature that is not there, or too large to be one."""
    if not path.is_file():
        hint = "; sign it with peftkit sign, or ask for its signature" if kind == "signature" else ""
        raise error(f"there is no {kind} '{path}'{hint}")
    if path.stat().st_size > _LARGEST:
        raise error(f"'{path}' is too large to be a {kind}")


def _why(error: Exception, key: Path, signature: Path) -> str:
    """Say in one sentence why a signature does not hold."""
    text = str(error)
    if text.startswith("Key mismatch"):
        return f"it was signed with another key than that of '{key}'"
    for pattern, what in (  # of a list that was written as Python writes it: with \' where both quotes occur
        (r"Hash mismatch for \\?'([^'\\]+)", "was changed"),
        (r"Missing files in model \\?'[^']*': ([^,'\"\\\]]+)", "is missing"),
        (r"Extra files found in model \\?'[^']*': ([^,'\"\\\]]+)", "was added"),
    ):
        if found := re.search(pattern, text):
            return f"'{found[1]}' {what}" if found[1] != "." else f"the file {what}"
    if "symlink" in text or "regular file" in text:
        return first_line(error)
    return f"the signature '{signature}' is damaged, or not made with the key of '{key}'"


def _require_base(what: Path, base: str, ui: UI | None) -> None:
    """Refuse an adapter that belongs to another base model."""
    from peftkit.model.fingerprint import fingerprint
    from peftkit.model.load import find_model

    passport = _passport(what)
    mark = fingerprint(find_model(ModelConfig(path=base), ui.note if ui else None))
    if passport.base.fingerprint != mark:
        raise AdapterError(
            f"'{what}' is signed, and belongs to another base model than '{base}': to '{passport.base.path}', with "
            "other weights"
        )


def _passport(what: Path) -> Passport:
    """Return the passport of a folder or pack.

    Raises:
        AdapterError: It has none.
    """
    if what.is_dir():
        return read_passport(what)
    with opened(what) as stream:
        entry = next((one for one in read_directory(stream, what.name) if one.name == PASSPORT), None)
        if entry is None or entry.size > MOST_BYTES:
            raise AdapterError(f"'{what}' has no passport, so it does not say which base model it belongs to")
        data = b"".join(content(stream, entry, what.name))
    try:
        return Passport.model_validate_json(data)
    except ValueError as error:
        raise AdapterError(f"the passport in '{what}' is damaged; ask for it again") from error
