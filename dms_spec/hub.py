"""Shares artifacts on the Hugging Face Hub, by the mixin of huggingface_hub: `HubArtifact`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

from dms_spec.artifact import (
    CARD,
    CONFIG,
    MODEL,
    Artifact,
    artifact_target,
    load_artifact,
    save_artifact,
)
from dms_spec.errors import BackendUnavailable, install_hint

try:
    from huggingface_hub import ModelHubMixin, snapshot_download
except ImportError as error:
    raise BackendUnavailable(
        "sharing on the Hub needs huggingface_hub",
        got=str(error),
        fix=install_hint("dms-spec[hub]"),
    ) from error


class HubArtifact(ModelHubMixin):
    """An artifact that can be saved, shared and loaded as models of the Hub are.

    ``save_pretrained``, ``from_pretrained`` and ``push_to_hub`` are those of
    ``huggingface_hub.ModelHubMixin``. What they write and read is an artifact, plain data alone.

    Attributes:
        artifact: The artifact itself.

    Source: `Integrate any ML framework with the Hub
    <https://huggingface.co/docs/huggingface_hub/guides/integrations>`_.
    """

    artifact: Artifact

    @classmethod
    def of(cls, artifact: Artifact, datasets: Sequence[str] = ()) -> Self:
        """Wraps an artifact.

        Args:
            artifact: What to share.
            datasets: Names on the Hub of the datasets that it has learned from, for its card.
        """
        own = cls()  # the mixin takes what __init__ is given for settings
        own.artifact = artifact
        if datasets:
            own.artifact = replace(artifact, model={**artifact.model, "datasets": list(datasets)})
        return own

    def save_pretrained(self, save_directory: str | Path, **options: Any) -> str | None:
        """Writes the artifact into a folder; with ``push_to_hub=True``, also to the Hub.

        Raises:
            ArtifactError: Something is there that is no artifact.
        """
        # The mixin removes any config.json first.
        artifact_target(save_directory, overwrite=True)
        written: str | None = super().save_pretrained(save_directory, **options)
        return written

    def _save_pretrained(self, save_directory: Path) -> None:
        save_artifact(save_directory, self.artifact, overwrite=True)

    @classmethod
    def _from_pretrained(cls, *, model_id: str, **options: Any) -> Self:
        if Path(model_id).is_dir():
            return cls.of(load_artifact(model_id))
        names = ("revision", "cache_dir", "force_download", "local_files_only", "token")
        own = {name: options[name] for name in names}
        folder = snapshot_download(model_id, allow_patterns=[CONFIG, MODEL, CARD], **own)
        return cls.of(load_artifact(folder))
