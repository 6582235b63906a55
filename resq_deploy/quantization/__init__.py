"""Stage 3: from a float ONNX file to a static int8 one. Never imports torch."""
