"""Background thread that ends with a block."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def in_background(name: str, work: Callable[[], None], stop: threading.Event) -> Iterator[None]:
    """Run `work`, which returns soon after `stop` is set, in a thread."""
    thread = threading.Thread(target=work, name=name, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
