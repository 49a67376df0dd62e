"""The graph layer: read, normalize and write models (onnx-ir), and run them (onnxruntime)."""
