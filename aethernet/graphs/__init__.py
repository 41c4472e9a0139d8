"""ONNX graphs as data: what a file promises, and how graphs are read and changed."""
