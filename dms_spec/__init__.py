"""dms-spec decides for each sample how far each modality deserves trust, and fuses accordingly.

Everything public is reachable from here and imported on first use, so that ``import dms_spec``
costs next to nothing (DMS-A-004).
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from dms_spec._version import EDITION as __dms_spec_version__
from dms_spec._version import PACKAGE as __version__

if TYPE_CHECKING:  # "as" the same name: exported, to a type checker
    from dms_spec.artifact import Artifact as Artifact
    from dms_spec.artifact import load_artifact as load_artifact
    from dms_spec.artifact import save_artifact as save_artifact
    from dms_spec.embeddings.predictor import Predictions as Predictions
    from dms_spec.embeddings.predictor import Predictor as Predictor
    from dms_spec.embeddings.scoring import Scorer as Scorer
    from dms_spec.embeddings.sources.columns import Columns as Columns
    from dms_spec.embeddings.table import Table as Table
    from dms_spec.embeddings.table import read_table as read_table
    from dms_spec.engine.array_backend import ArrayBackend as ArrayBackend
    from dms_spec.equations.namespace import Namespace as Namespace
    from dms_spec.errors import DMSError as DMSError
    from dms_spec.errors import DMSWarning as DMSWarning
    from dms_spec.estimator import FusionClassifier as FusionClassifier
    from dms_spec.interface.backend import Backend as Backend
    from dms_spec.interface.backend import Differentiable as Differentiable
    from dms_spec.interface.backend import Predictive as Predictive
    from dms_spec.interface.backend import RowPredictor as RowPredictor
    from dms_spec.interface.backend import Scheduler as Scheduler
    from dms_spec.interface.capabilities import Capabilities as Capabilities
    from dms_spec.interface.exporter import Exporter as Exporter
    from dms_spec.interface.policy import Policy as Policy
    from dms_spec.interface.policy import PolicyInput as PolicyInput
    from dms_spec.interface.signal import Evidence as Evidence
    from dms_spec.interface.signal import Signal as Signal
    from dms_spec.plugins import Descriptor as Descriptor
    from dms_spec.plugins import available as available
    from dms_spec.plugins import get_backend as get_backend
    from dms_spec.plugins import hookimpl as hookimpl
    from dms_spec.plugins import plugin_records as plugin_records
    from dms_spec.spec import SchedulerSpec as SchedulerSpec
    from dms_spec.types import ModalityBatch as ModalityBatch
    from dms_spec.types import Schedule as Schedule

_HOME = {
    "Artifact": "artifact",
    "load_artifact": "artifact",
    "save_artifact": "artifact",
    "Scorer": "embeddings.scoring",
    "Columns": "embeddings.sources.columns",
    "Predictions": "embeddings.predictor",
    "Predictor": "embeddings.predictor",
    "Table": "embeddings.table",
    "read_table": "embeddings.table",
    "ArrayBackend": "engine.array_backend",
    "Namespace": "equations.namespace",
    "DMSError": "errors",
    "DMSWarning": "errors",
    "Backend": "interface.backend",
    "Differentiable": "interface.backend",
    "Predictive": "interface.backend",
    "RowPredictor": "interface.backend",
    "Scheduler": "interface.backend",
    "Capabilities": "interface.capabilities",
    "Exporter": "interface.exporter",
    "Policy": "interface.policy",
    "PolicyInput": "interface.policy",
    "Evidence": "interface.signal",
    "Signal": "interface.signal",
    "Descriptor": "plugins",
    "available": "plugins",
    "get_backend": "plugins",
    "hookimpl": "plugins",
    "plugin_records": "plugins",
    "SchedulerSpec": "spec",
    "ModalityBatch": "types",
    "Schedule": "types",
}

#: What needs an extra, so that ``from dms_spec import *`` leaves it out.
_HOME_OF_EXTRAS = {"FusionClassifier": "estimator"}

__all__ = [
    "__version__",
    "__dms_spec_version__",
    *_HOME,
]


def __getattr__(name: str) -> object:
    """Imports a public name from its home module on first use (PEP 562)."""
    home = _HOME.get(name) or _HOME_OF_EXTRAS.get(name)
    if home is None:
        raise AttributeError(f"module 'dms_spec' has no attribute {name!r}")
    value = getattr(import_module(f"dms_spec.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*__all__, *_HOME_OF_EXTRAS])
