"""Artifacts: named bytes in a local directory, S3 or GCS, over pyarrow.fs."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from uuid import uuid4

from pyarrow import fs

CHUNK = 1 << 20
PART = ".part"


class ArtifactWriter:
    """Atomic write: the artifact appears when the writer closes, or not at all."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self._fs = filesystem
        self._path = path
        # A local file is visible while it grows, so it gets a temporary name; an object appears when its upload ends.
        self._part = f"{path}.{uuid4().hex}{PART}" if isinstance(filesystem, fs.LocalFileSystem) else path
        self._stream = filesystem.open_output_stream(self._part)
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        self._stream.write(data)
        self.size += len(data)

    def abort(self) -> None:
        """Discard what was written."""
        if not self._stream.closed:
            self._stream.close()
        if self._fs.get_file_info(self._part).type == fs.FileType.File:
            self._fs.delete_file(self._part)

    def __enter__(self) -> ArtifactWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
            return
        self._stream.close()
        if self._part != self._path:
            self._fs.move(self._part, self._path)


class Artifacts:
    """Storage at `uri`, by relative keys."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._fs, self._root = fs.FileSystem.from_uri(uri)
        self._local = isinstance(self._fs, fs.LocalFileSystem)

    def writer(self, key: str) -> ArtifactWriter:
        path = self._path(key)
        self._fs.create_dir(path.rpartition("/")[0], recursive=True)
        return ArtifactWriter(self._fs, path)

    def put(self, key: str, data: bytes) -> None:
        with self.writer(key) as writer:
            writer.write(data)

    def size(self, key: str) -> int | None:
        """Length in bytes, None if there is no such artifact."""
        info = self._fs.get_file_info(self._path(key))
        return int(info.size) if info.type == fs.FileType.File else None

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """Read `length` bytes from `start`, to the end when None. Raises FileNotFoundError."""
        with self._fs.open_input_file(self._path(key)) as file:
            left = max(file.size() - start, 0)  # object stores refuse to read beyond the end
            return bytes(file.read_at(left if length is None else min(length, left), start)) if left else b""

    def chunks(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """Like `read`, a megabyte at a time."""
        with self._fs.open_input_file(self._path(key)) as file:
            left = file.size() - start if length is None else length
            while left > 0 and (chunk := file.read_at(min(CHUNK, left), start)):
                yield bytes(chunk)
                start += len(chunk)
                left -= len(chunk)

    def keys(self, prefix: str) -> list[str]:
        """Keys of all artifacts in a folder, recursively."""
        selector = fs.FileSelector(self._path(prefix), allow_not_found=True, recursive=True)
        files = [info.path for info in self._fs.get_file_info(selector) if info.type == fs.FileType.File]
        return [path[len(self._root) + 1 :] for path in files if not path.endswith(PART)]

    def folders(self, prefix: str) -> list[str]:
        """Keys of the subfolders of a folder."""
        selector = fs.FileSelector(self._path(prefix), allow_not_found=True)
        paths = [info.path for info in self._fs.get_file_info(selector) if info.type == fs.FileType.Directory]
        return [path[len(self._root) + 1 :] for path in paths]

    def age_s(self, prefix: str) -> float:
        """Seconds since the last write in a folder, infinite if unknown."""
        path = self._path(prefix)
        selector = fs.FileSelector(path, allow_not_found=True, recursive=True)  # unfinished writes included
        times = [i.mtime_ns for i in (self._fs.get_file_info(path), *self._fs.get_file_info(selector)) if i.mtime_ns]
        return time.time() - max(times) / 1e9 if times else float("inf")

    def delete(self, prefix: str) -> None:
        """Delete an artifact or a folder, if present."""
        path = self._path(prefix)
        kind = self._fs.get_file_info(path).type
        with suppress(FileNotFoundError):  # deleted by another process meanwhile
            if kind == fs.FileType.Directory:
                self._fs.delete_dir(path)
            elif kind == fs.FileType.File:
                self._fs.delete_file(path)

    @contextmanager
    def descriptor(self, key: str) -> Iterator[int]:
        """Open a seekable file descriptor. Raises FileNotFoundError."""
        if self._local:
            with Path(self._path(key)).open("rb") as file:
                yield file.fileno()
            return
        with tempfile.TemporaryFile() as copy:  # an object store has no descriptors
            for chunk in self.chunks(key):
                copy.write(chunk)
            copy.flush()
            os.lseek(copy.fileno(), 0, os.SEEK_SET)
            yield copy.fileno()

    def _path(self, key: str) -> str:
        if not key or ".." in key.split("/") or key.startswith("/"):
            raise ValueError(f"not an artifact's key: {key!r}")
        return f"{self._root}/{key}"
