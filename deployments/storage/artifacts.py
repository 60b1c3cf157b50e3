"""Named bytes in a storage: a local directory, S3 or GCS by URI, over pyarrow.fs. It does not know what they mean."""

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


class Writer:
    """Bytes on their way into an artifact, which appears whole when the writer closes, or not at all."""

    def __init__(self, filesystem: fs.FileSystem, path: str) -> None:
        self._fs = filesystem
        self._path = path
        # A local file is seen while it grows, an object store's is not: there the upload itself is the temporary.
        self._part = f"{path}.{uuid4().hex}{PART}" if isinstance(filesystem, fs.LocalFileSystem) else path
        self._stream = filesystem.open_output_stream(self._part)
        self.size = 0

    def write(self, data: bytes | memoryview) -> None:
        """Append bytes."""
        self._stream.write(data)
        self.size += len(data)

    def abort(self) -> None:
        """Leave nothing behind."""
        if not self._stream.closed:
            self._stream.close()
        if self._fs.get_file_info(self._part).type == fs.FileType.File:
            self._fs.delete_file(self._part)

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if kind is not None:
            self.abort()
            return
        self._stream.close()
        if self._part != self._path:
            self._fs.move(self._part, self._path)


class Artifacts:
    """The storage at `uri`. Keys are relative, with slashes, and made by us alone."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self._fs, self._root = fs.FileSystem.from_uri(uri)
        self._local = isinstance(self._fs, fs.LocalFileSystem)

    def writer(self, key: str) -> Writer:
        """Open an artifact for writing; use it in a `with`."""
        path = self._path(key)
        self._fs.create_dir(path.rpartition("/")[0], recursive=True)
        return Writer(self._fs, path)

    def put(self, key: str, data: bytes) -> None:
        """Store `data` whole."""
        with self.writer(key) as writer:
            writer.write(data)

    def size(self, key: str) -> int | None:
        """Length in bytes, None where there is no such artifact."""
        info = self._fs.get_file_info(self._path(key))
        return int(info.size) if info.type == fs.FileType.File else None

    def read(self, key: str, start: int = 0, length: int | None = None) -> bytes:
        """`length` bytes from `start` (to the end when None). FileNotFoundError where there is no such artifact."""
        with self._fs.open_input_file(self._path(key)) as file:
            left = max(file.size() - start, 0)  # an object storage refuses to read beyond the end
            return bytes(file.read_at(left if length is None else min(length, left), start)) if left else b""

    def chunks(self, key: str, start: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The same, a megabyte at a time."""
        with self._fs.open_input_file(self._path(key)) as file:
            left = file.size() - start if length is None else length
            while left > 0 and (chunk := file.read_at(min(CHUNK, left), start)):
                yield bytes(chunk)
                start += len(chunk)
                left -= len(chunk)

    def keys(self, prefix: str) -> list[str]:
        """Every key below `prefix`, a folder; what is still being written is none yet."""
        selector = fs.FileSelector(self._path(prefix), allow_not_found=True, recursive=True)
        files = [i.path for i in self._fs.get_file_info(selector) if i.type == fs.FileType.File]
        return [path[len(self._root) + 1 :] for path in files if not path.endswith(PART)]

    def folders(self, prefix: str) -> list[str]:
        """The keys of the folders that are right in `prefix`."""
        selector = fs.FileSelector(self._path(prefix), allow_not_found=True)
        found = [i.path for i in self._fs.get_file_info(selector) if i.type == fs.FileType.Directory]
        return [path[len(self._root) + 1 :] for path in found]

    def age_s(self, prefix: str) -> float:
        """Seconds since anything in a folder was last written to, what is still being written included; infinite where
        nothing tells."""
        path = self._path(prefix)
        selector = fs.FileSelector(path, allow_not_found=True, recursive=True)
        times = [i.mtime_ns for i in (self._fs.get_file_info(path), *self._fs.get_file_info(selector)) if i.mtime_ns]
        return time.time() - max(times) / 1e9 if times else float("inf")

    def delete(self, prefix: str) -> None:
        """Remove an artifact, or a folder with all that is in it; no error where it is not there."""
        path = self._path(prefix)
        kind = self._fs.get_file_info(path).type
        with suppress(FileNotFoundError):  # somebody else deletes it too
            if kind == fs.FileType.Directory:
                self._fs.delete_dir(path)
            elif kind == fs.FileType.File:
                self._fs.delete_file(path)

    @contextmanager
    def descriptor(self, key: str) -> Iterator[int]:
        """A readable, seekable file descriptor of the artifact: what a program is given that may read nothing else."""
        if self._local:
            with Path(self._path(key)).open("rb") as file:
                yield file.fileno()
            return
        with tempfile.TemporaryFile() as copy:
            for chunk in self.chunks(key):
                copy.write(chunk)
            copy.flush()
            os.lseek(copy.fileno(), 0, os.SEEK_SET)
            yield copy.fileno()

    def _path(self, key: str) -> str:
        if not key or ".." in key.split("/") or key.startswith("/"):
            raise ValueError(f"not an artifact's key: {key!r}")
        return f"{self._root}/{key}"
