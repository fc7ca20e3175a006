"""The ONNX exporter of dms-spec: trace, check, write."""
