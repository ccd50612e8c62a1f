"""The ONNX and QONNX files."""
