"""What encoders of libraries share: an error where one cannot be loaded, and a hash of weights."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from hashlib import sha256
from importlib import import_module
from typing import Any

import torch

from dms_spec.encoding.encoder import Wish
from dms_spec.encoding.openers import said
from dms_spec.errors import DMSError, FileError


@contextmanager
def loading(wish: Wish, library: str) -> Iterator[None]:
    """Turns whatever a library raises while it loads an encoder into one error.

    Raises:
        FileError: It cannot be loaded.
    """
    try:
        yield
    except (DMSError, MemoryError):
        raise
    except Exception as error:  # of many kinds: no such name, no network, no such class
        raise FileError(
            f"the encoder {wish.name!r} cannot be loaded",
            expected=f"a model of {library} for {wish.kind}, in a folder or on the Hub",
            got=said(error),
        ) from error


@contextmanager
def silence() -> Iterator[None]:
    """Keeps transformers from printing bars and reports. What its reports say is checked."""
    logging: Any = import_module("transformers.utils.logging")
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()


def digest(model: Any, missing: Collection[str] = ()) -> str:
    """Gives the SHA-256 of names, dtypes, shapes and bytes of what a ``state_dict`` holds.

    Args:
        model: Of torch.
        missing: What is left out: weights that were not in the files, and are random.
    """
    found = sha256()
    for name, tensor in sorted(model.state_dict().items()):
        if name in missing:
            continue
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        found.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return found.hexdigest()
