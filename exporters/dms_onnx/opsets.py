"""Says which opsets a graph can be written in, and the IR version that goes with each.

Both are always set: the newest onnx writes versions by default that the newest ONNX Runtime
does not read. The IR version is the lowest that may carry the opset, which the oldest runtime
that knows the opset reads.
"""

from __future__ import annotations

import onnx
from onnx import version_converter

from dms_spec.errors import SpecError, VerificationError

#: The opset that the tracer writes.
TRACED = 21

IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}


def check_opset(opset: int) -> None:
    """Refuses an opset that no graph is written in.

    Raises:
        SpecError: It is not in the table.
    """
    if opset not in IR_VERSIONS:
        raise SpecError(
            "this opset is not written",
            expected=f"{min(IR_VERSIONS)} to {max(IR_VERSIONS)}",
            got=str(opset),
            fix=f"{TRACED} is the default; 18 is read by the oldest runtimes.",
        )


def check_versions(model: onnx.ModelProto) -> None:
    """Refuses a model that some runtime of its opset may not read.

    Raises:
        VerificationError: It is not in one opset of the table, or its IR version is newer than
            there.
    """
    opsets = [entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")]
    if len(opsets) != 1:
        raise VerificationError(
            "the graph is not in one opset", expected="one", got=", ".join(map(str, opsets))
        )
    opset = opsets[0]
    if opset not in IR_VERSIONS:
        known = sorted(IR_VERSIONS)
        raise VerificationError(
            f"the graph's opset is too {'new' if opset > known[-1] else 'old'}",
            expected=f"{known[0]} to {known[-1]}, which the runtimes read",
            got=str(opset),
            fix="Export it with --opset.",
        )
    if model.ir_version > IR_VERSIONS[opset]:
        raise VerificationError(
            "the graph's IR version is newer than its opset needs",
            expected=f"{IR_VERSIONS[opset]} for opset {opset}",
            got=str(model.ir_version),
            fix="A runtime that knows the opset may refuse it: export it again.",
        )


def converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """Converts the model to another opset, with the IR version of the table.

    Raises:
        SpecError: The opset is not in the table.
    """
    check_opset(opset)
    if opset != TRACED:
        model = version_converter.convert_version(model, opset)
    if opset < 19:  # the converter leaves it, and nothing that old knows it
        for node in model.graph.node:
            if node.op_type == "Cast":
                kept = [a for a in node.attribute if a.name != "saturate"]
                del node.attribute[:]
                node.attribute.extend(kept)
    model.ir_version = IR_VERSIONS[opset]
    return model
