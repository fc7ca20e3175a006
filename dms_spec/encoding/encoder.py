"""Finds an encoder by its name: of a library that is installed, or any function."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

from dms_spec.errors import BackendUnavailable, PluginError, SpecError, install_hint
from dms_spec.plugins import get_backend


@dataclass(frozen=True, kw_only=True)
class Encoder:
    """Turns items into embeddings.

    Attributes:
        run: Takes n items as `opener` opens them, and gives ``[n, D]``.
        about: What embeddings of another encoder differ in, by name; all are texts.
        cut: Counts the items of which only the beginning is read.
    """

    run: Callable[[list[Any]], Any]
    about: Mapping[str, str]
    cut: Callable[[list[Any]], int] = field(default=lambda _: 0)


@dataclass(frozen=True, kw_only=True)
class Wish:
    """Says which encoder is asked for, and how it is to run.

    Attributes:
        name: ``transformers:NAME``, ``sentence-transformers:NAME`` or ``timm:NAME``, where NAME is
            a folder or a name on the Hub; or ``module:function``.
        kind: ``image``, ``text``, ``audio`` or ``file``.
        pooling: How many vectors become one; None leaves it to the encoder.
        precision: ``float32``, ``float16`` or ``bfloat16``: what a library's encoder computes in.
        device: Of torch.
    """

    name: str
    kind: str
    pooling: str | None = None
    precision: str = "float32"
    device: str = "cpu"


#: By family, the module whose ``load`` makes its encoders, and what has to be installed.
FAMILIES = {
    "transformers": ("dms_torch.encoders.of_transformers", "dms-spec[transformers]"),
    "sentence-transformers": ("dms_torch.encoders.of_sentences", "sentence-transformers"),
    "timm": ("dms_torch.encoders.of_timm", "timm"),
}


def load_encoder(wish: Wish) -> Encoder:
    """Loads an encoder.

    Raises:
        SpecError: Its name is none, or it cannot do what is asked for.
        BackendUnavailable: Its library is not installed.
        PluginError: There is no such function, or its module cannot be imported.
        FileError: Its files cannot be read.
    """
    family, colon, name = wish.name.partition(":")
    if not colon or not family or not name:
        raise SpecError(
            f"{wish.name!r} names no encoder",
            expected=f"{', '.join(f'{known}:NAME' for known in FAMILIES)}, or module:function",
        )
    if family not in FAMILIES:
        return _callable(wish, family, name)
    module, needs = FAMILIES[family]
    try:
        load: Callable[[Wish, str], Encoder] = import_module(module).load
    except Exception as error:  # builds of torch and torchvision that do not fit raise others
        raise BackendUnavailable(
            f"the encoder {wish.name!r} needs {family}", got=str(error), fix=install_hint(needs)
        ) from error
    get_backend("torch").check_device(wish.device)
    return load(wish, name)


def _callable(wish: Wish, module: str, name: str) -> Encoder:
    """Finds a function, in a module of the working folder too."""
    if wish.pooling is not None:
        raise SpecError(
            "--pooling is for encoders of transformers", got=f"the function {wish.name!r}"
        )
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        found = import_module(module)
        run = attrgetter(name)(found)
    except Exception as error:  # a module may raise anything
        raise PluginError(
            f"the encoder {wish.name!r} cannot be imported",
            expected="module:function, of a module that is installed or in the working folder",
            got=f"{type(error).__name__}: {error}",
            fix="For a library's encoder, write " + ", ".join(f"{k}:NAME" for k in FAMILIES) + ".",
        ) from error
    if not callable(run):
        raise PluginError(f"the encoder {wish.name!r} is no function", got=type(run).__name__)
    file = getattr(found, "__file__", None)
    source = sha256(Path(file).read_bytes()).hexdigest() if file else ""
    return Encoder(run=run, about=about(wish, sha256=source))


def about(wish: Wish, **texts: str) -> dict[str, str]:
    """Says what an encoder is, in texts."""
    return {"encoder": wish.name, "kind": wish.kind, **texts}


def no_kind(wish: Wish, kinds: Sequence[str]) -> SpecError:
    """Makes the error for a kind of items that an encoder cannot take."""
    return SpecError(f"the encoder {wish.name!r} takes no {wish.kind}", expected=" or ".join(kinds))
