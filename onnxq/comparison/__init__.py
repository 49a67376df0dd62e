"""How a quantized model is compared with its float model: where values are read, which belong together, what their error is worth."""
