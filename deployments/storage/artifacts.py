"""Artifacts: named bytes in a local directory, S3 or GCS, over pyarrow.fs."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pyarrow import fs

from deployments.storage.filesystem import open_filesystem
from deployments.storage.storage_errors import full, translate, translated
from deployments.storage.threads import StorageThreads
from deployments.storage.writer import PARTS, ArtifactWriter, FileWriter, ObjectWriter

CHUNK = 1 << 20
PROBED = "probe"  # key of no artifact
MARKER = "installation"  # artifact that pairs a storage with its Redis: one that is gone means a volume that is not mounted
PART = ".part"  # suffix of unfinished files of former versions
BUCKET_CHECK_S = 30.0  # a bucket that was there is taken to be there for so long


class Artifacts:
    """Storage at `uri`, by relative keys. All methods block and raise StorageUnavailable: see `threads` for event loops."""

    def __init__(self, uri: str, min_free_bytes: int = 0) -> None:
        self.uri = uri
        self.threads = StorageThreads()
        self._min_free_bytes = min_free_bytes
        self._fs, self._root = open_filesystem(uri)
        self._local = isinstance(self._fs, fs.LocalFileSystem)
        self._bucket_seen = float("-inf")
        self._marker = Path(self._root, MARKER)
        self._marked = self._marker.is_file() if self._local else False  # the storage had one once
        self._synced: set[Path] = set()  # top folders whose entries are durable

    def writer(self, key: str, *, durable: bool = True, incoming: bool = False) -> ArtifactWriter:
        """Context that stores an artifact. An `incoming` one is refused while the free space is below the floor."""
        path = self._path(key)
        require_space: Callable[[], None] = self.require_space if incoming else lambda: None
        if self._local:

            def require_room() -> None:
                self._check_present()
                require_space()

            return FileWriter(Path(self._root), Path(path), self._synced if durable else None, require_room)
        return ObjectWriter(self._fs, self._root, path, require_space)

    def put(self, key: str, data: bytes, *, durable: bool = True) -> None:
        with self.writer(key, durable=durable) as writer:
            writer.write(data)

    def size(self, key: str) -> int | None:
        """Length in bytes, None if there is no such artifact."""
        path = self._path(key)
        with translated():
            info = self._fs.get_file_info(path)
        if info.type == fs.FileType.NotFound:
            self._check_present()
        return int(info.size) if info.type == fs.FileType.File else None

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Read `length` bytes from `start`, to the end when None. Raises FileNotFoundError."""
        path = self._path(key)
        with self._reading(), self._fs.open_input_file(path) as file:
            left = max(file.size() - start, 0)  # object stores refuse to read beyond the end
            return bytes(file.read_at(left if length is None else min(length, left), start)) if left else b""

    def chunks(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Like `read`, a megabyte at a time."""
        path = self._path(key)
        with self._reading(), self._fs.open_input_file(path) as file:
            left = file.size() - start if length is None else length
            while left > 0 and (chunk := file.read_at(min(CHUNK, left), start)):
                yield bytes(chunk)
                start += len(chunk)
                left -= len(chunk)

    def sizes(self, prefix: str) -> dict[str, int]:
        """Lengths of all artifacts in a folder by key, recursively."""
        selector = fs.FileSelector(self._path(prefix), allow_not_found=True, recursive=True)
        with translated():
            files = [info for info in self._fs.get_file_info(selector) if info.type == fs.FileType.File]
        if not files:
            self._check_present()
        return {f.path[len(self._root) + 1 :]: int(f.size) for f in files if not f.path.endswith(PART)}

    def keys(self, prefix: str) -> list[str]:
        """Keys of all artifacts in a folder, recursively."""
        return list(self.sizes(prefix))

    def folders(self, prefix: str) -> list[str]:
        """Keys of the subfolders of a folder."""
        selector = fs.FileSelector(self._path(prefix), allow_not_found=True)
        with translated():
            paths = [info.path for info in self._fs.get_file_info(selector) if info.type == fs.FileType.Directory]
        return [path[len(self._root) + 1 :] for path in paths]

    def age_s(self, prefix: str) -> float:
        """Seconds since the last write in a folder, infinite if unknown."""
        path = self._path(prefix)
        selector = fs.FileSelector(path, allow_not_found=True, recursive=True)
        with translated():
            infos = (self._fs.get_file_info(path), *self._fs.get_file_info(selector))
        times = [info.mtime_ns for info in infos if info.mtime_ns]
        return time.time() - max(times) / 1e9 if times else float("inf")

    def delete(self, prefix: str) -> None:
        """Delete an artifact or a folder, if present."""
        path = self._path(prefix)
        with translated(), suppress(FileNotFoundError):  # deleted by another process meanwhile
            kind = self._fs.get_file_info(path).type
            if kind == fs.FileType.Directory:
                self._fs.delete_dir(path)
            elif kind == fs.FileType.File:
                self._fs.delete_file(path)
            else:
                self._check_present()

    def delete_unfinished(self, min_age_s: float) -> int:
        """Delete what writers that died have left, if it was not written for `min_age_s`; returns how many."""
        oldest = time.time() - min_age_s
        selector = fs.FileSelector(self._path(PARTS), allow_not_found=True, recursive=True)
        with translated():
            files = [info for info in self._fs.get_file_info(selector) if info.type == fs.FileType.File]
            left = [info.path for info in files if info.mtime_ns and info.mtime_ns / 1e9 <= oldest]
            for path in left:
                with suppress(FileNotFoundError):
                    self._fs.delete_file(path)
        return len(left)

    def free_bytes(self) -> int | None:
        """Free space for this process, None where it cannot be known."""
        if not self._local:
            return None
        folder = Path(self._root)
        with translated():
            return shutil.disk_usage(next(path for path in (folder, *folder.parents) if path.exists())).free

    def probe(self) -> None:
        """Raises StorageUnavailable unless artifacts can be read and, as far as that shows without a write, written."""
        self.size(PROBED)
        if self._local:
            with translated():
                if Path(self._root).exists() and not os.access(self._root, os.W_OK | os.X_OK):
                    raise PermissionError(f"{self._root} cannot be written: Permission denied, or Read-only file system")

    def require_space(self, size: int = 0) -> None:
        """Raises StorageFull unless `size` more bytes leave the least free space."""
        free = self.free_bytes()
        if free is not None and free - size < self._min_free_bytes:
            raise full()

    @contextmanager
    def descriptor(self, key: str) -> Iterator[int]:
        """Open a seekable file descriptor. Raises FileNotFoundError."""
        path = self._path(key)
        if self._local:
            with self._reading():
                file = Path(path).open("rb")  # noqa: SIM115
            with file:
                yield file.fileno()
            return
        with tempfile.TemporaryFile() as copy:  # an object store has no descriptors
            for chunk in self.chunks(key):
                with translated():
                    copy.write(chunk)
            with translated():
                copy.flush()
            os.lseek(copy.fileno(), 0, os.SEEK_SET)
            yield copy.fileno()

    @contextmanager
    def _reading(self) -> Iterator[None]:
        with translated():
            try:
                yield
            except FileNotFoundError:
                self._check_present()
                raise

    def _check_present(self) -> None:
        """Raises StorageUnavailable if the volume or the bucket is missing: all of its artifacts would be, too."""
        if not self._local:
            self._check_bucket()
            return
        with translated():
            present = self._marker.is_file()
        if self._marked and not present:
            raise translate(OSError(f"no file {MARKER} in {self._root}: is its volume mounted?"))
        self._marked = present

    def _check_bucket(self) -> None:
        if time.monotonic() - self._bucket_seen < BUCKET_CHECK_S:
            return
        bucket = self._root.partition("/")[0]
        try:
            found = self._fs.get_file_info(bucket).type != fs.FileType.NotFound
        except PermissionError:
            found = True
        except OSError as error:
            # Keys that may read objects need not be allowed to look at the bucket.
            if "ACCESS_DENIED" not in str(error):
                raise translate(error) from error
            found = True
        if not found:
            raise translate(OSError(f"no such bucket: {bucket}"))
        self._bucket_seen = time.monotonic()

    def _path(self, key: str) -> str:
        if not key or ".." in key.split("/") or key.startswith("/"):
            raise ValueError(f"not an artifact's key: {key!r}")
        return f"{self._root}/{key}"
