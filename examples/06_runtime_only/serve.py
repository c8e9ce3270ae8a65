"""python serve.py ENGINE PICTURE.npy: what an engine sees, by numpy and its runtime alone."""

import sys

import numpy as np

import onnxgraft

with onnxgraft.ServedEngine(sys.argv[1]) as engine:
    seen = engine.see(np.load(sys.argv[2]), color="rgb")
for name, score in seen.best:
    print(f"{name}: {score:.3f}")
