"""A torch module and its loader, deployed to INT8 and compared with PyTorch."""

import sys
from pathlib import Path

import torch
from torch.utils.data import DataLoader, TensorDataset

import onnxgraft

OUT = Path(sys.argv[1] if len(sys.argv) > 1 else "out")

torch.manual_seed(0)
net = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3, stride=2), torch.nn.BatchNorm2d(8), torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 5),
)  # fmt: skip
pictures = torch.rand(32, 3, 24, 24)
loader = DataLoader(TensorDataset(pictures, torch.zeros(32, dtype=torch.int64)), batch_size=8)

# Two rows in the example leave the batch free.
report = onnxgraft.deploy((net, torch.zeros(2, 3, 24, 24)), OUT, data=loader, targets="onnxruntime")
print(f"deployed: {report.passed}")

with onnxgraft.ServedEngine(OUT / "engine.onnxruntime") as engine, torch.no_grad():
    answer = engine.infer(pictures[:4].numpy())["output"]
    difference = abs(answer - net.eval()(pictures[:4]).numpy()).max()
print(f"differs from PyTorch by at most {difference:.3f}")
