"""Saves and shares what an estimator has learned: as an artifact, as ONNX, on the Hub."""

from __future__ import annotations

from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, Self

from dms_spec.artifact import Artifact, load_artifact, save_artifact
from dms_spec.plugins import get_exporter


class Pretrained:
    """Gives an estimator its files."""

    def learned(self) -> Artifact:
        """Gives what was learned.

        Raises:
            NotFittedError: Nothing has been learned yet.
        """
        raise NotImplementedError

    @classmethod
    def from_artifact(cls, artifact: Artifact) -> Self:
        """Gives the estimator that has learned an artifact."""
        raise NotImplementedError

    def save(self, path: Path | str, *, overwrite: bool = False) -> None:
        """Writes what was learned as an artifact, see `dms_spec.save_artifact`."""
        save_artifact(path, self.learned(), overwrite=overwrite)

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Reads an artifact of `save` or of ``dms fit``, see `dms_spec.load_artifact`."""
        return cls.from_artifact(load_artifact(path))

    def to_onnx(self, folder: Path | str, *, overwrite: bool = False, **options: Any) -> Path:
        """Writes ``folder/onnx/model.onnx``, verified, and gives its path.

        Args:
            folder: Where; the folder of `save` is a good choice.
            overwrite: Replace an earlier export.
            options: Of the exporter, see `dms_onnx.exporter.OnnxExporter`.

        Raises:
            VerificationError: The graph does not compute what the classifier does.
            FileError: Something else is there.
        """
        exporter = get_exporter("onnx")
        return exporter.export(self.learned(), Path(folder), overwrite=overwrite, **options)

    def save_pretrained(
        self, folder: Path | str, *, datasets: Sequence[str] = (), **options: Any
    ) -> None:
        """Writes an artifact as `save` does, in the way of the Hugging Face Hub.

        Args:
            folder: Where; an artifact that is there is replaced.
            datasets: Names on the Hub of what was learned from, for the card.
            options: Of ``huggingface_hub.ModelHubMixin.save_pretrained``.
        """
        self._on_hub(datasets).save_pretrained(folder, **options)

    def push_to_hub(self, repo_id: str, *, datasets: Sequence[str] = (), **options: Any) -> str:
        """Writes an artifact to the Hugging Face Hub, and gives the address of the commit.

        Args:
            repo_id: Such as ``"name/model"``.
            datasets: As in `save_pretrained`.
            options: Of ``huggingface_hub.ModelHubMixin.push_to_hub``, such as ``private``.
        """
        address: str = self._on_hub(datasets).push_to_hub(repo_id, **options)
        return address

    @classmethod
    def from_pretrained(cls, name: Path | str, **options: Any) -> Self:
        """Loads an artifact from the Hugging Face Hub, or from a folder.

        Args:
            name: Such as ``"name/model"``, or a folder of `save` or ``dms fit``.
            options: Of ``huggingface_hub.ModelHubMixin.from_pretrained``, such as ``revision``.
        """
        return cls.from_artifact(_hub().HubArtifact.from_pretrained(name, **options).artifact)

    def _on_hub(self, datasets: Sequence[str]) -> Any:
        return _hub().HubArtifact.of(self.learned(), datasets)


def _hub() -> Any:
    """Imports what shares artifacts."""
    return import_module("dms_spec.hub")
