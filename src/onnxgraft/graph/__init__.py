"""The graph on its way: the model, its files, walking and cutting it, types and shapes, FP16."""
