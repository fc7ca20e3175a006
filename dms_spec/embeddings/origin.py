"""Says which encoders embeddings come from, where their file says so, and when they are others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from dms_spec.embeddings.sources import frame_files
from dms_spec.embeddings.sources.columns import Columns
from dms_spec.errors import DMSError
from dms_spec.files import SUFFIXES, read_metadata
from dms_spec.texts import parse_json

#: Under which name a table's metadata says what its encoders are, as JSON.
ENCODERS = "encoders"

# What embeddings of another encoder differ in. A name or a version may be another, all the same.
_TELLING = ("kind", "model", "pooling", "precision", "sha256")

Encoders = Mapping[str, Mapping[str, str]]


def encoders_of(path: Path, columns: Columns | None = None) -> Encoders:
    """Reads what `dms embed` wrote on the encoder of each modality.

    Args:
        path: A table. One of another origin says nothing.
        columns: Which columns of a frame the modalities are.
    """
    texts: Mapping[str, str] = {}
    with suppress(DMSError, UnicodeDecodeError):
        texts = _metadata(path)
    frame = columns is not None and frame_files.is_frame_file(path)
    return encoders_in(texts, columns.modalities if columns is not None and frame else {})


def encoders_in(texts: Mapping[str, str], modalities: Mapping[str, Sequence[str]]) -> Encoders:
    """Does the same for what a table says beside its arrays.

    Args:
        texts: By name.
        modalities: By modality, the columns that it is made of.
    """
    found: Any = {}
    with suppress(DMSError):
        found = parse_json(texts.get(ENCODERS, "{}"), "what is said of the encoders")
    known = _texts(found)
    single = {name: own[0] for name, own in modalities.items() if len(own) == 1}
    return known | {name: known[column] for name, column in single.items() if column in known}


def others(learned: object, found: Encoders) -> Iterator[str]:
    """Says of which modalities the embeddings come from another encoder than those learned from.

    Args:
        learned: What an artifact's model keeps, which may come from anywhere.
        found: Of a table.
    """
    for name, before in _texts(learned).items():
        now = found.get(name, {})
        changed = [key for key in _TELLING if {key} <= before.keys() & now.keys()]
        changed = [key for key in changed if before[key] != now[key]]
        if changed:
            yield (
                f"the embeddings of {name!r} come from another encoder than those learned from "
                f"({', '.join(changed)}): {now.get('encoder')!r}, not {before.get('encoder')!r}"
            )


def other_encoders(model: Mapping[str, Any], path: Path, columns: Columns) -> Iterator[str]:
    """Says the same of a table in a file.

    Args:
        model: Of an artifact.
        path: The table.
        columns: Which columns of a frame were asked for; the others are as the artifact learned.
    """
    before = Columns.of_model(model)
    learned = {} if before is None else before.modalities
    asked = replace(columns, modalities={**learned, **columns.modalities})
    yield from others(model.get(ENCODERS), encoders_of(path, asked))


def _metadata(path: Path) -> Mapping[str, str]:
    if path.suffix == ".parquet":
        return frame_files.read_metadata(path)
    return read_metadata(path) if path.suffix in SUFFIXES else {}


def _texts(data: object) -> dict[str, dict[str, str]]:
    """Leaves out whatever is not texts by name, for each modality."""
    outer = data.items() if isinstance(data, Mapping) else ()
    inner = {name: own for name, own in outer if isinstance(own, Mapping)}
    return {
        name: {key: text for key, text in own.items() if isinstance(text, str)}
        for name, own in inner.items()
    }
