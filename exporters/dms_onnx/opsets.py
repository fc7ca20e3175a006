"""Which opsets a graph can be written in, and the IR version that goes with each.

Both are always set: the newest onnx writes versions by default that the newest ONNX Runtime
does not read. The IR version is the lowest that may carry the opset, which the oldest runtime
that knows the opset reads.
"""

from __future__ import annotations

import onnx
from onnx import version_converter

from dms_spec.errors import SpecError

#: The opset that the tracer writes.
TRACED = 21

IR_VERSIONS = {18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}


def check_opset(opset: int) -> None:
    """Refuse an opset that no graph is written in.

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


def converted(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    """The model in another opset, with the IR version of the table.

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
