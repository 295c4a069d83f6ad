"""Exports trained models to ONNX and proves that they agree with torch."""
