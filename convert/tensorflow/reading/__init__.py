"""From what TensorFlow and Keras write to a frozen graph."""
