"""Networks: ONNX in, distinct tasks out."""
