"""One rank of two that train in every way PyTorch has; on rank 1, two modalities are absent.

``python ddp_rank.py RANK FOLDER MODE...`` writes the parameters after three steps to
``FOLDER/MODE-RANK.npy``. A mode is plain, static, unused or fsdp, by name or not; or
skipping, which is a `FusionModel`.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn.parallel import DistributedDataParallel

from dms_spec import SchedulerSpec
from dms_torch import Fusion, FusionModel, FusionOutput

NAMES = ("image", "text", "audio")


class Model(nn.Module):
    """Returns a `FusionOutput` and nothing else, as DDP must find the tensors in it."""

    def __init__(self, by_name: bool) -> None:
        super().__init__()
        self.by_name = by_name
        self.encoders = nn.ModuleList(nn.Linear(3, 4) for _ in NAMES)
        self.heads = nn.ModuleList(nn.Linear(4, 5) for _ in NAMES)
        spec = SchedulerSpec.preset("paper", NAMES).replace(policy="monotone", fusion="logit")
        self.fusion = Fusion(spec)

    def forward(self, x: Tensor, present: Tensor) -> FusionOutput:
        # What is absent is replaced before the encoder, not skipped: every parameter stays in
        # the graph on every rank, and gets a gradient of zero from what is not there.
        clean = torch.where(present[..., None], x, 0.0)
        features = [encode(clean[:, m]) for m, encode in enumerate(self.encoders)]
        logits = [head(h) for head, h in zip(self.heads, features, strict=True)]
        if self.by_name:
            masks = dict(zip(NAMES, present.unbind(1), strict=True))
            given = [dict(zip(NAMES, part, strict=True)) for part in (features, logits)]
            return self.fusion(*given, present=masks)
        return self.fusion(torch.stack(features, 1), torch.stack(logits, 1), present=present)


class Skipping(nn.Module):
    """Calls no encoder whose modality is absent: DDP must look for what took part."""

    def __init__(self) -> None:
        super().__init__()
        encoders = {name: nn.Linear(3, 4) for name in NAMES}
        spec = SchedulerSpec.preset("paper", NAMES).replace(policy="monotone", fusion="logit")
        widths = dict.fromkeys(NAMES, 4)
        self.inner = FusionModel(encoders, spec, widths=widths, width=4, classes=5)

    def forward(self, x: Tensor, present: Tensor) -> FusionOutput:
        return self.inner(dict(zip(NAMES, x.unbind(1), strict=True)), present)


def wrapped(mode: str) -> tuple[nn.Module, nn.Module]:
    torch.manual_seed(0)
    model = Skipping() if mode == "skipping" else Model(by_name=mode.endswith("by name"))
    if mode.startswith("fsdp"):
        mesh = init_device_mesh("cpu", (2,))
        fully_shard(model.fusion, mesh=mesh)
        return model, fully_shard(model, mesh=mesh)
    look = {"find_unused_parameters": True}
    how = {"static": {"static_graph": True}, "unused": look, "skipping": look}
    return model, DistributedDataParallel(model, **how.get(mode.split()[0], {}))


def trained(mode: str, rank: int) -> np.ndarray:
    model, run = wrapped(mode)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    random = torch.Generator().manual_seed(rank)
    for _ in range(3):
        x = torch.randn((8, 3, 3), generator=random)
        present = torch.ones(8, 3, dtype=torch.bool)
        if rank == 1:
            present[:, 1:] = False
            x[:, 1:] = torch.nan
        labels = torch.randint(0, 5, (8,), generator=random)
        optimizer.zero_grad()
        nn.functional.cross_entropy(run(x, present).fused, labels).backward()
        optimizer.step()
    whole = [p.full_tensor() if mode.startswith("fsdp") else p for p in model.parameters()]
    return torch.cat([parameter.detach().flatten() for parameter in whole]).numpy()


def main(rank: int, folder: str, modes: list[str]) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    for mode in modes:
        np.save(f"{folder}/{mode}-{rank}.npy", trained(mode, rank))
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2], sys.argv[3:])
