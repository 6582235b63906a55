"""Chains across the seam between the PyTorch half and the ONNX half."""
