"""Reads ONNX files of any tool, finds out what they want to be given, and embeds images with them."""
