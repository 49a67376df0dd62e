"""ONNX Runtime: sessions, inner values, latency, memory; for any model, independent of quantization."""
