"""Writes the JSON schemas that ship with the package, from the types that read each format."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from dms_spec.artifact import Config
from dms_spec.bulk.manifest import Manifest
from dms_spec.conformance.expected import Expectation
from dms_spec.robustness.result import Measured, ResultFile
from dms_spec.robustness.store import StoreLine
from dms_spec.spec import SchedulerSpec
from dms_spec.typed import schema
from dms_torch.fit.checkpoint import CheckpointFile

TARGET = Path(__file__).parents[2] / "dms_spec" / "schemas"

#: By name, a title and the type.
FORMATS: dict[str, tuple[str, Any]] = {
    "spec": ("A scheduler specification", SchedulerSpec),
    "artifact": ("config.json of an artifact", Config),
    "predictions": ("_manifest.json of predictions in parts", Manifest),
    "robustness": ("robustness.json of a report of dms robustness", ResultFile),
    "case": ("A case of robustness.json, and the value of a line of a store", Measured),
    "store": ("What follows the checksum in a line of a store of dms robustness", StoreLine),
    "checkpoint": ("The JSON in a checkpoint of dms fit", CheckpointFile),
    "expected": ("An [[expect]] of a file of expected failures", Expectation),
}


def build() -> dict[str, str]:
    """Gives the text of each schema, by file name."""
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema"}
    return {
        f"{name}.schema.json": json.dumps(head | {"title": title} | schema(kind), indent=2) + "\n"
        for name, (title, kind) in FORMATS.items()
    }


if __name__ == "__main__":
    TARGET.mkdir(exist_ok=True)
    for name, text in build().items():
        (TARGET / name).write_text(text, encoding="utf-8")
