"""Defines what an exporter is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # listing plugins does not pay for NumPy
    from dms_spec.artifact import Artifact


class Exporter(ABC):
    """Writes schedulers for another runtime, and verifies what it wrote.

    Example:
        >>> from pathlib import Path
        >>> from dms_spec import load_artifact
        >>> from dms_spec.plugins import get_exporter
        >>> path = get_exporter("onnx").export(load_artifact("model"), Path("exported"))
        >>> path.name
        'model.onnx'
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """The name that it is registered under."""

    @abstractmethod
    def export(
        self, artifact: Artifact, folder: Path, *, overwrite: bool = False, **options: Any
    ) -> Path:
        """Writes a scheduler, with its heads where it has any, and verifies it.

        Args:
            artifact: What to write.
            folder: Where to; the file lies in a folder of the exporter's own name in it.
            overwrite: Replace what was exported there before.
            options: The exporter's own.

        Returns:
            The file written.

        Raises:
            VerificationError: The result is wrong; nothing is written.
            FileError: Something is there already, or the folder cannot be written.
        """

    @abstractmethod
    def verify(self, path: Path) -> dict[str, Any]:
        """Verifies an exported file again, on the machine where it is to run.

        Returns:
            The report, as plain data.

        Raises:
            FileError: The file is damaged, or not one of this exporter.
            VerificationError: It is not what it says it is, or computes something else.
        """
