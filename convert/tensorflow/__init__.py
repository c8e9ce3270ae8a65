"""TensorFlow and Keras: read, prepared for inference, lowered to ONNX, and run as the original."""
