"""Which checkpoints there are, and which of them are in force.

A folder of versions with the aliases champion, candidate, best and previous beside them: each
alias is a file that holds a version's name and is replaced by rename, so a reader sees the old or
the new name and never half of one.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from efm_core.checkpoint import (
    MANIFEST,
    VERSION,
    CheckpointError,
    check_version_name,
    verify_checkpoint,
)

Alias = Literal["champion", "candidate", "best", "previous"]
ALIASES: tuple[Alias, ...] = ("champion", "candidate", "best", "previous")


class RegistryError(ValueError):
    """A version or alias that is not there; says which and what to do."""


class Registry:
    """Versions below `root`; nothing is cached, so several processes may look at once."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def versions(self) -> list[str]:
        """Names of all finished versions, sorted."""
        if not self.root.is_dir():
            return []
        return sorted(
            path.name
            for path in self.root.iterdir()
            if VERSION.fullmatch(path.name) and (path / MANIFEST).is_file()
        )

    def path(self, version: str) -> Path:
        """The folder of a version. Raises RegistryError when it is not there."""
        path = self.root / check_version_name(version)
        if not (path / MANIFEST).is_file():
            known = ", ".join(self.versions()) or "none"
            raise RegistryError(f"version '{version}' is not in {self.root}; there are: {known}")
        return path

    def alias(self, name: str) -> str | None:
        """The version that an alias names, None when it names none.

        Raises RegistryError for an unknown alias or a file that holds no version name.
        """
        file = self._alias_file(name)
        try:
            version = file.read_text(encoding="utf-8").strip()
        except FileNotFoundError:
            return None
        if not VERSION.fullmatch(version):
            raise RegistryError(f"{file} holds {version!r}, which is no version; delete the file")
        return version

    def resolve(self, name: str) -> str:
        """A version's name from an alias or a version. Raises RegistryError."""
        if name not in ALIASES:
            return self.path(name).name
        version = self.alias(name)
        if version is None:
            raise RegistryError(f"alias '{name}' names no version in {self.root}; promote one")
        return version

    def promote(self, version: str, alias: Alias = "champion") -> None:
        """Verify a version and let the alias name it; the champion before becomes previous.

        Raises CheckpointError for a version that does not verify or a champion that is no policy.
        """
        manifest = verify_checkpoint(self.path(version))
        if alias == "champion":
            if manifest.role != "policy":
                raise CheckpointError(
                    f"version '{version}' has role {manifest.role}; only a policy can be champion"
                )
            before = self.alias("champion")
            if before is not None and before != version:
                self._write(before, "previous")
        self._write(version, alias)

    def rollback(self) -> str:
        """Put the previous champion in force again; the two change places. Returns its name.

        Raises RegistryError when there is none, CheckpointError when it does not verify.
        """
        previous, champion = self.alias("previous"), self.alias("champion")
        if previous is None:
            raise RegistryError(f"{self.root} has no previous champion to roll back to")
        verify_checkpoint(self.path(previous))
        self._write(previous, "champion")
        if champion is not None:
            self._write(champion, "previous")
        return previous

    def _alias_file(self, name: str) -> Path:
        if name not in ALIASES:
            raise RegistryError(f"alias '{name}' is unknown; use one of {', '.join(ALIASES)}")
        return self.root / name

    def _write(self, version: str, alias: str) -> None:
        temporary = self.root / f".{alias}.tmp-{os.getpid()}"
        with temporary.open("w", encoding="utf-8") as file:
            file.write(version + "\n")
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._alias_file(alias))
        descriptor = os.open(self.root, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
