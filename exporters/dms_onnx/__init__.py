"""Exports schedulers to ONNX: traces, verifies, and writes."""
