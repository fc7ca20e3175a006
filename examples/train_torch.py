"""Trains encoders, a scheduler and a head together, in a plain PyTorch loop.

``python examples/train_torch.py``. Two views of real scanned digits; in training and in use, a
view is missing for some of the samples. Add three things to a loop of your own: `Fusion` after
the encoders, `fusion_loss` after the head, and the presence mask beside the inputs.
"""

from __future__ import annotations

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from dms_spec import SchedulerSpec
from dms_torch import Fusion, fusion_loss


class Model(nn.Module):
    def __init__(self, spec: SchedulerSpec) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"left": nn.Linear(32, 24), "right": nn.Linear(32, 24)})
        self.heads = nn.ModuleDict({name: nn.Linear(24, 10) for name in self.encoders})
        self.fusion = Fusion(spec)
        self.classifier = nn.Linear(24, 10)

    def forward(self, views: dict[str, Tensor], present: Tensor):
        features, logits = {}, {}
        for m, (name, encode) in enumerate(self.encoders.items()):
            # Replace what is absent before the encoder; Fusion gives it weight 0 afterwards.
            view = torch.where(present[:, m, None], views[name], 0.0)
            features[name] = torch.relu(encode(view))
            logits[name] = self.heads[name](features[name])
        output = self.fusion(features, logits, present=present)
        stacked = torch.stack(list(features.values()), dim=1)
        return output, self.classifier(output.fused), stacked, torch.stack(list(logits.values()), 1)


def main() -> float:
    torch.manual_seed(0)
    digits = load_digits()
    images = torch.from_numpy(digits.images / 16).float()
    views = {"left": images[:, :, :4].flatten(1), "right": images[:, :, 4:].flatten(1)}
    labels = torch.from_numpy(digits.target)
    order = torch.randperm(len(labels))
    train, test = order[:1400], order[1400:]
    present = torch.rand(len(labels), 2) < 0.8
    present[~present.any(1)] = True

    spec = SchedulerSpec(
        modalities=("left", "right"),
        policy="monotone",
        signals={"confidence": {}},
        coefficients={"confidence": 1.0},
    )
    model = Model(spec)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(30):
        for rows in train[torch.randperm(len(train))].split(100):
            part = {name: view[rows] for name, view in views.items()}
            output, predictions, features, logits = model(part, present[rows])
            losses = fusion_loss(output, predictions, labels[rows], features)
            # The heads' own loss: each view alone has to earn its confidence.
            each = nn.functional.cross_entropy(
                logits.flatten(0, 1), labels[rows].repeat_interleave(2), reduction="none"
            )
            own = each[present[rows].flatten()].mean()
            optimizer.zero_grad()
            (losses["total"] + own).backward()
            optimizer.step()

    model.eval()
    with torch.no_grad():
        part = {name: view[test] for name, view in views.items()}
        output, predictions, *_ = model(part, present[test])
    accuracy = (predictions.argmax(1) == labels[test]).float().mean().item()
    both = present[test].all(1)
    print(f"accuracy {accuracy:.3f} on {len(test)} scans, {int((~both).sum())} with a view missing")
    print(f"mean weights where both are there: {output.weights[both].mean(0).tolist()}")
    return accuracy


if __name__ == "__main__":
    main()
