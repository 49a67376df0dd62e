"""ONNX Runtime: sessions, inner values, latency and memory of any model; nothing specific to quantization."""
