"""An ONNX file as a device stores it: its graph, the bits it keeps and their roles, patched copies, sessions."""
