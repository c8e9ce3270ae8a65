"""Programs of torch.export, with what their modules computed before they were exported."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest

torch = pytest.importorskip("torch")


class Block(torch.nn.Module):  # type: ignore[misc, name-defined]
    def __init__(self) -> None:
        super().__init__()
        self.conv1 = torch.nn.Conv2d(3, 4, 3, padding=1)
        self.bn = torch.nn.BatchNorm2d(4)
        self.act = torch.nn.ReLU(inplace=True)

    def forward(self, x):  # type: ignore[no-untyped-def]
        return self.act(self.bn(self.conv1(x))) * 2


class Net(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Two inputs, nested outputs, one of them twice, a shared layer."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1 = torch.nn.Sequential(Block(), torch.nn.Conv2d(4, 4, 1))
        self.layer1[0].bn.running_mean.uniform_(-1, 1)
        self.act = torch.nn.ReLU(inplace=True)
        self.fc = torch.nn.Linear(4, 4)

    def forward(self, image, scale):  # type: ignore[no-untyped-def]
        maps = self.layer1(image)
        pooled = self.act(self.fc(maps.mean((2, 3))))
        logits = self.act(self.fc(pooled)) * scale["by"][0]
        return {"logits": logits, "more": [maps, maps.argmax(1), logits], "kind": 7}


class Mixed(torch.nn.Module):  # type: ignore[misc, name-defined]
    """Types that numpy lacks, an input that is returned, a size."""

    def forward(self, x, mask, steps):  # type: ignore[no-untyped-def]
        wide = x.to(torch.bfloat16) * 2
        return wide, torch.where(mask, x, -x), x, x.shape[0] + steps


class Counting(torch.nn.Module):  # type: ignore[misc, name-defined]
    """A state that is returned, and one that nothing shows."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.ones(3))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

    def forward(self, x):  # type: ignore[no-untyped-def]
        self.calls.add_(1)
        self.mean.mul_(0.5).add_(x.sum(0))
        return x + self.mean


class Gamma(torch.nn.Module):  # type: ignore[misc, name-defined]
    """An operator that ONNX has not."""

    def forward(self, x):  # type: ignore[no-untyped-def]
        return torch.special.gammainc(x, x)


def save(path: Path, module, example, dynamic=None):  # type: ignore[no-untyped-def]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.export.export(module, example, dynamic_shapes=dynamic)
        torch.export.save(program, path)


def make(folder: Path) -> None:
    torch.manual_seed(0)
    free = torch.export.Dim.DYNAMIC
    net = Net().eval()
    image, by = torch.randn(2, 3, 6, 5), torch.randn(1)
    save(
        folder / "net.pt2", net, (image, {"by": (by,)}),
        {"image": {0: free, 2: free}, "scale": {"by": (None,)}},
    )  # fmt: skip
    with torch.no_grad():
        told = net(image, {"by": (by,)})
        inside = net.layer1[0](image)
    np.savez(
        folder / "net.npz", image=image, by=by, logits=told["logits"], maps=told["more"][0],
        argmax=told["more"][1], block=inside,
    )  # fmt: skip
    half = torch.randn(2, 3).half()
    save(
        folder / "mixed.pt2", Mixed(), (half, torch.tensor([True, False, True]), 4),
        ({0: free}, None, free),
    )  # fmt: skip
    save(folder / "counting.pt2", Counting(), (torch.randn(2, 3),))
    save(folder / "training.pt2", Net(), (image, {"by": (by,)}))
    save(folder / "missing.pt2", Gamma(), (torch.ones(2),))
    save(folder / "complex.pt2", torch.nn.Identity(), (torch.zeros(2, dtype=torch.complex64),))
    torch.jit.save(torch.jit.trace(net.fc, torch.zeros(1, 4)), folder / "script.pt")
    torch.save(net.state_dict(), folder / "weights.pth")
    torch.save({"epoch": 3, "state_dict": net.state_dict()}, folder / "checkpoint.pth")
    torch.save(net.fc, folder / "module.pt")
    torch.save(net.fc, folder / "old.pt", _use_new_zipfile_serialization=False)
    (folder / "plain.pkl").write_bytes(pickle.dumps({"weights": [1.0]}))
