"""Writes ONNX and QONNX files."""
