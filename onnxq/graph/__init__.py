"""Reading and editing ONNX graphs: files, edits, MACs, fusions; nothing is run here."""
