"""resq-deploy: harden int8 networks, export them to ONNX, and prove what bit flips and attacks do to the file."""

__version__ = "0.1.0"
