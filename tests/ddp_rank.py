"""One rank of a run under plain DDP; on rank 1, two modalities are absent throughout.

``python ddp_rank.py RANK FOLDER`` writes the parameters after three steps to ``FOLDER/RANK.npy``.
"""

from __future__ import annotations

import sys

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from dms_spec import SchedulerSpec
from dms_torch import Fusion

NAMES = ("image", "text", "audio")


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleList(nn.Linear(3, 4) for _ in NAMES)
        self.heads = nn.ModuleList(nn.Linear(4, 5) for _ in NAMES)
        self.fusion = Fusion(SchedulerSpec.preset("paper", NAMES).replace(policy="monotone"))
        self.head = nn.Linear(4, 5)

    def forward(self, x: Tensor, present: Tensor) -> tuple[Tensor, Tensor]:
        # What is absent is replaced before the encoder, not skipped: every parameter stays in
        # the graph on every rank, and gets a gradient of zero from what is not there.
        clean = torch.where(present[..., None], x, 0.0)
        h = torch.stack([encode(clean[:, m]) for m, encode in enumerate(self.encoders)], 1)
        logits = torch.stack([head(h[:, m]) for m, head in enumerate(self.heads)], 1)
        output = self.fusion(features=h, logits=logits, present=present)
        return self.head(output.fused), (logits * present[..., None]).square().mean()


def main(rank: int, folder: str) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    torch.manual_seed(0)
    model = DistributedDataParallel(Model())
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
        predictions, penalty = model(x, present)
        (nn.functional.cross_entropy(predictions, labels) + 0.1 * penalty).backward()
        optimizer.step()
    flat = torch.cat([parameter.detach().flatten() for parameter in model.parameters()])
    np.save(f"{folder}/{rank}.npy", flat.numpy())
    dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
