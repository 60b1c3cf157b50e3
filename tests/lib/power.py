"""Power cut: what a disk holds of a folder when only fsync makes files and directory entries durable."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

FSYNC = os.fsync


@dataclass(slots=True)
class Disk:
    """Durable contents, by inode."""

    files: dict[int, bytes] = field(default_factory=dict)
    folders: dict[int, dict[str, int]] = field(default_factory=dict)  # name -> inode
    synced: list[Path] = field(default_factory=list)  # in order

    def sync(self, descriptor: int) -> None:
        """Record what an fsync writes."""
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        inode = path.stat().st_ino
        if path.is_dir():
            self.folders[inode] = {entry.name: entry.stat().st_ino for entry in path.iterdir()}
        else:
            self.files[inode] = path.read_bytes()
        self.synced.append(path)
        FSYNC(descriptor)

    def after_power_cut(self, folder: Path) -> dict[str, bytes]:
        """Files below a folder that survive, with their durable contents."""
        return dict(self._survivors(folder.stat().st_ino, ""))

    def _survivors(self, inode: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        for name, entry in self.folders.get(inode, {}).items():
            if entry in self.files:
                yield f"{prefix}{name}", self.files[entry]
            else:
                yield from self._survivors(entry, f"{prefix}{name}/")


@contextmanager
def watched_disk() -> Iterator[Disk]:
    """Record every fsync of this process."""
    disk = Disk()
    with patch.object(os, "fsync", disk.sync):
        yield disk
