"""Finetuning: gradients of ONNX graphs as ONNX nodes, and the training of quantized models with them."""
