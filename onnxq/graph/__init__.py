"""Reading and editing of ONNX graphs: files, edits, shapes, MACs, fusions; no model runs here."""
