"""Reading and editing of ONNX graphs: files, edits, shapes, MACs and fusions; nothing here runs a model."""
