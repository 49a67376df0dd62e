"""Rules: the gradient of each operator as a few ONNX nodes."""
