"""The ONNX Runtime backend of dms-spec, and `Session`, which runs one exported file."""

from dms_onnxruntime.session import Session as Session
