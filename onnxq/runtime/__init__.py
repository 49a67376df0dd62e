"""ONNX Runtime: sessions, inner values, latency, memory; knows models and arrays, nothing of quantization."""
