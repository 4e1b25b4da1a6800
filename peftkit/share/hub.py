"""An adapter's repository on the Hugging Face hub: written in one commit, read at one commit, checked both times."""

from __future__ import annotations

import hashlib
import re
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.adapter.attach import WEIGHTS
from peftkit.adapter.card import CARD, checked_card, is_made_card
from peftkit.adapter.passport import file_hash, read_passport
from peftkit.errors import AdapterError, ConfigError, RemoteError
from peftkit.rundir import write_text
from peftkit.share.staged import ALLOWED, REQUIRED, SIGNATURE, hashes, require_size

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import ModelInfo, RepoSibling

REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_TAG = re.compile(r"[A-Za-z0-9][\w.-]{0,99}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_OF_THE_HUB = (".gitattributes",)


@dataclass(frozen=True)
class Hub:
    """The hub, for one repository.

    Attributes:
        repo: Its id, `owner/name`.
        token: The secret to ask with; None asks as nobody.
    """

    repo: str
    token: str | None

    @property
    def name(self) -> str:
        """What it is called in messages."""
        return f"hf:{self.repo}"

    def require_writable(self, tag: str | None) -> None:
        """Refuse what cannot be pushed before anything is copied.

        Raises:
            ConfigError: The tag is none.
            RemoteError: There is no token.
        """
        if tag is not None and not _TAG.fullmatch(tag):
            raise ConfigError(f"--tag {tag!r} is no tag; take letters, digits, dots and hyphens")
        if self.token is None:
            raise RemoteError(
                f"{self.name} needs a token to be written; run `hf auth login`, or name a file that holds one with "
                "--token-file"
            )

    def push(self, staged: Path, *, public: bool, tag: str | None, message: str | None, force: bool) -> dict[str, Any]:
        """Write a staged adapter in one commit, and tag it.

        Args:
            staged: The folder to write; its card is made to name the repository.
            public: Let everyone see the repository, if it is made now.
            tag: Name of the commit; by default the first twelve digits of the weights' sha256.
            message: Of the commit.
            force: Write into a repository that holds other files too; they stay.

        Returns:
            `place`, `revision` (the commit), `tag` (None where the same weights have theirs already), `public` (whether
            everyone can see it), and `files` with their sha256.

        Raises:
            RemoteError: The hub refuses, or the repository is in use for something else.
        """
        tag_of_weights = f"sha256-{file_hash(staged / WEIGHTS)[:12]}"
        if is_made_card(staged / CARD) and not (staged / SIGNATURE).exists():
            write_text(staged / CARD, checked_card(staged, read_passport(staged), self.repo))
        with self._open() as api:
            before = self._prepare(api, public=public, force=force)
            tags = {one.name: one.target_commit for one in api.list_repo_refs(self.repo).tags}
            if tag in tags:
                raise RemoteError(f"{self.name} has the tag '{tag}' already; give another one with --tag")
            commit = self._commit(api, staged, before, message or f"Adapter {tag or tag_of_weights}")
            after = api.model_info(self.repo, revision=commit, files_metadata=True)
            listed = self._listed(after)
            for path in sorted(staged.iterdir()):
                if path.name not in listed:
                    raise RemoteError(f"{self.name} does not list '{path.name}' after the push; push again")
                self._require_same(path, listed[path.name])
            named: str | None = tag or tag_of_weights
            if named not in tags:
                api.create_tag(self.repo, tag=str(named), revision=commit)
            elif tags[named] != commit:
                named = None  # the same weights with another card: their tag stays with the first
        return {
            "place": self.name,
            "revision": commit,
            "tag": named,
            "public": not after.private,
            "files": hashes(staged),
        }

    def pull(self, folder: Path, revision: str | None) -> dict[str, Any]:
        """Read the files of an adapter at one commit into a folder; what the repository holds beside them is not read.

        Args:
            folder: The folder to fill.
            revision: Commit, tag or branch; None takes `main`.

        Returns:
            `place` and `revision` (the commit).

        Raises:
            AdapterError: The repository holds no adapter, or a file is not the one that it lists.
            RemoteError: The hub refuses or is out of reach.
        """
        from huggingface_hub import hf_hub_download

        with self._open(revision) as api:
            info = api.model_info(self.repo, revision=revision, files_metadata=True)
            commit = str(info.sha)
            if not _COMMIT.fullmatch(commit) or (revision and _COMMIT.fullmatch(revision) and revision != commit):
                raise RemoteError(f"{self.name} answers with the commit '{commit[:80]}', which was not asked for")
            listed = self._listed(info)
            self._require_adapter(info, listed)
            for name, entry in listed.items():
                path = hf_hub_download(
                    self.repo,
                    name,
                    revision=commit,
                    local_dir=folder,
                    endpoint=api.endpoint,
                    token=self.token or False,
                    tqdm_class=_meter(f"'{name}' in {self.name}", ALLOWED[name]),
                )
                self._require_same(Path(path), entry)
        shutil.rmtree(folder / ".cache", ignore_errors=True)  # what huggingface_hub notes of a download
        return {"place": self.name, "revision": commit}

    @contextmanager
    def _open(self, revision: str | None = None) -> Iterator[HfApi]:
        from huggingface_hub import HfApi

        from peftkit.share.client import patient
        from peftkit.share.remote_errors import hub_errors

        with hub_errors(self.name, revision, self.token), patient(self.name):
            yield HfApi(token=self.token or False)

    def _prepare(self, api: HfApi, *, public: bool, force: bool) -> ModelInfo:
        """Make the repository if it is not there, and refuse one that is in use for something else."""
        from huggingface_hub.errors import RepositoryNotFoundError

        try:
            found = api.model_info(self.repo, files_metadata=True)
        except RepositoryNotFoundError as error:
            if error.response.status_code != 404:
                raise
            api.create_repo(self.repo, private=not public, exist_ok=True)
            return api.model_info(self.repo, files_metadata=True)
        if not public and not found.private:
            raise RemoteError(f"{self.name} can be seen by everyone; pass --public to push there, or take another name")
        others = [one.rfilename for one in found.siblings or () if one.rfilename not in (*ALLOWED, *_OF_THE_HUB)]
        if others and not force:
            more = f" and {len(others) - 1} more files" if others[1:] else ""
            raise RemoteError(
                f"{self.name} holds '{others[0]}'{more}, so it is not an adapter's alone; take another name, or pass "
                "--force to write into it"
            )
        return found

    def _commit(self, api: HfApi, staged: Path, before: ModelInfo, message: str) -> str:
        """Write all files, and take away those of an earlier adapter, in one commit; return it."""
        from huggingface_hub import CommitOperationAdd, CommitOperationDelete

        names = sorted(path.name for path in staged.iterdir())
        gone = [name for name in self._listed(before) if name not in names]
        made = api.create_commit(
            self.repo,
            [
                *(CommitOperationAdd(name, str(staged / name)) for name in names),
                *(CommitOperationDelete(name) for name in gone),
            ],
            commit_message=message,
            parent_commit=before.sha,
        )
        return str(made.oid)

    def _listed(self, info: ModelInfo) -> dict[str, RepoSibling]:
        return {one.rfilename: one for one in info.siblings or () if one.rfilename in ALLOWED}

    def _require_adapter(self, info: ModelInfo, listed: Mapping[str, RepoSibling]) -> None:
        for name in REQUIRED:
            if name not in listed:
                held = ", ".join(one.rfilename for one in (info.siblings or ())[:5]) or "nothing"
                raise AdapterError(f"{self.name} is no adapter with a passport: it has no {name} (it holds {held})")
        for name, entry in listed.items():
            if entry.size is None:
                raise AdapterError(f"{self.name} does not say how large '{name}' is, so it is not read")
            require_size(f"'{name}' in {self.name}", entry.size, ALLOWED[name])

    def _require_same(self, path: Path, entry: RepoSibling) -> None:
        """Check a file against what the hub lists: its sha256, or git's hash of a small file."""
        if entry.lfs is not None:
            same = file_hash(path) == entry.lfs.sha256
        else:
            content = path.read_bytes()
            same = hashlib.sha1(b"blob %d\0%s" % (len(content), content)).hexdigest() == entry.blob_id  # noqa: S324
        if not same:
            raise AdapterError(f"'{path.name}' is not the file that {self.name} lists, by its hash; try again")


def _meter(what: str, most: int) -> Any:
    """Return a progress bar that shows nothing, and stops a file that grows beyond what its kind may have."""
    from huggingface_hub.utils import tqdm  # type: ignore[attr-defined]

    class Meter(tqdm):
        seen = 0

        def update(self, n: float | None = 1) -> bool | None:
            self.seen += int(n or 0)
            require_size(what, self.seen, most)
            return None

    return Meter
