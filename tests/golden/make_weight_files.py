"""Write weight_files/: small files by torch.save, in every form that published weights come in.

Run where PyTorch is installed: `python tests/golden/make_weight_files.py`. Their tensors are made by fill.py from
SHAPES, so that the tests know them without PyTorch.
"""

import argparse
import io
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import torch
from fill import tensor
from torch import nn

HERE = Path(__file__).parent / "weight_files"
SHAPES = {
    "0.weight": (4, 3, 3, 3),
    "1.weight": (4,),
    "1.bias": (4,),
    "1.running_mean": (4,),
    "1.running_var": (4,),
    "2.weight": (4,),
    "3.weight": (5, 4),
    "3.bias": (5,),
}


def network() -> nn.Sequential:
    """Layers with the tensors of SHAPES, and a counter of batches."""
    layers = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), nn.BatchNorm2d(4), nn.PReLU(4), nn.Linear(4, 5))
    layers.load_state_dict(state() | {"1.num_batches_tracked": torch.tensor(7)})
    return layers


def state(prefix: str = "") -> "OrderedDict[str, torch.Tensor]":
    return OrderedDict((prefix + name, torch.from_numpy(tensor(name, shape))) for name, shape in SHAPES.items())


def checkpoint() -> dict[str, object]:
    """What training code keeps: the state dict of a DataParallel among other things."""
    parallel = nn.DataParallel(network())
    optimizer = torch.optim.SGD(parallel.parameters(), lr=0.1, momentum=0.9)
    for parameter in parallel.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    parallel.load_state_dict({f"module.{name}": value for name, value in network().state_dict().items()})
    return {
        "epoch": torch.tensor(3),
        "best": np.float64(0.5),
        "history": np.arange(3),
        "args": argparse.Namespace(lr=0.1, folder=Path("runs")),
        "state_dict": parallel.state_dict(),
        "optimizer": optimizer.state_dict(),
        "normalize": {"mean": 0.5, "std": 0.5},
    }


def views() -> dict[str, torch.Tensor]:
    """Strided views, two of them of one storage, and one tensor under two names."""
    shared = torch.from_numpy(tensor("shared", (6, 4)))
    return {
        "transposed.weight": shared.t(),
        "part.weight": shared[1:5:2, 1:],
        "last.weight": shared.permute(1, 0)[3],
        "tied.weight": shared,
        "tied.again": shared,
        "empty.weight": torch.zeros(0, 3),
    }


def halves() -> dict[str, torch.Tensor]:
    whole = torch.from_numpy(tensor("whole", (2, 3)))
    kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.uint8, torch.bool)
    return {str(kind).removeprefix("torch."): (whole * 100).to(kind) for kind in kinds}


def script() -> bytes:
    """A TorchScript archive without its debug records, which name folders of the machine."""
    saved = io.BytesIO()
    torch.jit.save(torch.jit.script(network().eval()), saved)
    smaller = io.BytesIO()
    with zipfile.ZipFile(saved) as full, zipfile.ZipFile(smaller, "w") as kept:
        for record in full.infolist():
            if not record.filename.endswith(".debug_pkl"):
                kept.writestr(record.filename, full.read(record), record.compress_type)
    return smaller.getvalue()


def main() -> None:
    HERE.mkdir(exist_ok=True)
    torch.save(network().state_dict(), HERE / "zip.pt")
    old = {"_use_new_zipfile_serialization": False}
    torch.save({"iter": 3, "net_state_dict": network().state_dict()}, HERE / "legacy.ckpt", **old)
    torch.save(checkpoint(), HERE / "checkpoint.pth.tar")
    torch.save(views(), HERE / "views.pt")
    torch.save(views(), HERE / "views_legacy.pt", **old)
    torch.save(halves(), HERE / "halves.pt")
    torch.save(network(), HERE / "module.pt")
    torch.save({"model": state("backbone."), "ema": state() | {"ema.steps": torch.ones(1)}}, HERE / "two.pt")
    torch.save({"state_dict": state("model.") | {"head.kernel": torch.ones(2, 2)}}, HERE / "headed.ckpt")
    (HERE / "script.pt").write_bytes(script())
    for path in sorted(HERE.iterdir()):
        print(f"{path.name}: {path.stat().st_size / 1e3:.1f} kB")


if __name__ == "__main__":
    main()
