"""Writes one model of a Triton model repository, around a graph that was verified first."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import Any, final

from dms_onnx.exporter import MARKS as GRAPH
from dms_onnx.exporter import build, write
from dms_onnx.files import read_model
from dms_onnx.metadata import read_metadata
from dms_onnx.verify import verify
from dms_spec.artifact import Artifact
from dms_spec.errors import DMSError, SpecError
from dms_spec.interface.exporter import Exporter
from dms_spec.outputs import Target
from dms_spec.texts import parse_json
from dms_triton.config import MARK, config

#: The name of a model that was given none, and the most samples in one run of it.
NAME, MAX_BATCH_SIZE = "scheduler", 32

_LABELS, _VERSION = "labels.txt", "1"


@final
class TritonExporter(Exporter):
    """Writes ``triton/NAME``: ``config.pbtxt``, ``1/model.onnx`` and ``1/verification.json``.

    With heads there is ``labels.txt`` too, the class of each column of ``probabilities``. The
    batch is the first axis of every input and output: ``mc_logits`` is [B, T, M, C]. Other models
    in the folder ``triton`` are left alone.

    Its options are ``name``, of the model; ``max_batch_size``; and the ``dtype`` and ``opset`` of
    the exporter onnx.
    """

    @property
    def name(self) -> str:
        return "triton"

    def export(
        self,
        artifact: Artifact,
        folder: Path,
        *,
        overwrite: bool = False,
        name: str = NAME,
        max_batch_size: int = MAX_BATCH_SIZE,
        **options: Any,
    ) -> Path:
        _check(name, max_batch_size, options)
        folder = Path(folder) / self.name / name
        labels = _labels(artifact.model["classes"]) if artifact.has_heads else ""
        marks = {"config.pbtxt": MARK.encode()} | (
            {_LABELS: _old(folder, labels)} if labels else {}
        )
        marks |= {f"{_VERSION}/{file}": mark for file, mark in GRAPH.items()}
        target = Target.of_folder(folder, marks, overwrite=overwrite, alone=True)
        model, report = build(artifact, passes_axis=1, **options)
        text = config(
            model, name=name, max_batch_size=max_batch_size, labels=_LABELS if labels else ""
        )
        with target.writing() as new:
            new["config.pbtxt"].write_text(text, encoding="utf-8")
            if labels:
                new[_LABELS].write_text(labels, encoding="utf-8")
            write(model, report, {file: new[f"{_VERSION}/{file}"] for file in GRAPH})
        return folder / _VERSION / "model.onnx"

    def verify(self, path: Path) -> dict[str, Any]:
        return verify(read_model(Path(path)))


def _check(name: str, max_batch_size: int, options: dict[str, Any]) -> None:
    if unknown := sorted(options.keys() - {"dtype", "opset"}):
        raise SpecError(
            "the exporter has no such option",
            expected="name, max_batch_size, dtype, opset",
            got=", ".join(unknown),
            fix="Every axis that Triton batches along is the first one already."
            if unknown == ["passes_axis"]
            else "",
        )
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", name):
        raise SpecError(
            "a model on the server cannot have this name",
            expected="letters, digits, and any of _ - . after the first",
            got=repr(name),
        )
    if max_batch_size < 1:
        raise SpecError(
            "the server cannot batch", expected="max_batch_size 1 or more", got=str(max_batch_size)
        )


def _labels(classes: list[Any]) -> str:
    """Writes one class a line, in the order of the columns of ``probabilities``."""
    names = [str(name) for name in classes]
    if broken := [name for name in names if name.splitlines() != [name]]:
        raise SpecError(
            "a class cannot stand in a file with one class a line",
            expected="names without line breaks, and not empty",
            got=", ".join(map(repr, broken)),
            fix="Rename the class in the labels, and fit again.",
        )
    return "".join(f"{name}\n" for name in names)


def _old(folder: Path, labels: str) -> bytes:
    """The labels of the graph that an earlier export left, by which one knows its file of them."""
    if (folder / _LABELS).exists():
        with suppress(DMSError):
            data = read_metadata(read_model(folder / _VERSION / "model.onnx"))
            about = parse_json(data.get("model", "{}"), "the model's metadata")
            if isinstance(about, dict) and isinstance(classes := about.get("classes"), list):
                labels = _labels(classes)
    return labels.encode()[:_NEAR]


# Two thirds of what `dms_spec.outputs.is_marked` looks at.
_NEAR = 1 << 15
