"""
In a PyTorch model
==================

Here the encoders are yours, and you train them. This page puts a scheduler behind three of them,
trains the whole in a plain loop, and watches the weights while one input gets worse.

The inputs
----------

The scans of :doc:`tutorial_1_onnx` serve once more. Now three of their views are raw inputs, each
for an encoder of its own. The rows fall into three parts: for the encoders, for what comes after
them, and to measure on. No writer is in two of them."""

import matplotlib.pyplot as plt
import numpy as np
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from dms_spec.colours import BLACK, BLUE, GREY, MAGENTA, TEAL

table = np.load("train.npz")
names = ("pixels", "projections", "gradients")
inputs = {name: torch.from_numpy(table[name]) / 16 for name in names}
present = torch.from_numpy(np.stack([table[f"present.{name}"] for name in names], axis=1))
labels = torch.from_numpy(table["labels"])
groups = torch.from_numpy(table["groups"])
learn, rest, test = ((groups >= a) & (groups < b) for a, b in ((0, 4), (4, 6), (6, 8)))
print([int(part.sum()) for part in (learn, rest, test)], "rows")

# %%
# The model
# ---------
#
# ``FusionModel`` takes any modules that return one vector for each row. It gives each a head,
# weighs and fuses what they say, and predicts a class. The policy ``monotone`` learns how to
# weigh, and better evidence never lowers a weight.

from dms_spec import SchedulerSpec
from dms_torch import FusionModel, fusion_loss, unimodal_loss

torch.manual_seed(0)
encoders = {
    "pixels": nn.Sequential(
        nn.Unflatten(1, (1, 8, 8)),
        nn.Conv2d(1, 16, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(256, 32),
        nn.ReLU(),
    ),
    "projections": nn.Sequential(nn.Linear(16, 32), nn.ReLU()),
    "gradients": nn.Sequential(nn.Linear(32, 32), nn.ReLU()),
}
spec = SchedulerSpec.preset("paper", names).replace(policy="monotone")
model = FusionModel(encoders, spec, widths=dict.fromkeys(names, 32), width=24, classes=10, passes=8)

# %%
# The loop
# --------
#
# Two losses meet here. ``fusion_loss`` is for what was fused. ``unimodal_loss`` is for the heads:
# each modality has to earn its confidence alone. The gaps of the table stay gaps. An encoder sees
# only the rows that have its input.

optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
history = []
for _ in range(25):
    model.train()
    total = 0.0
    for rows in learn.nonzero().squeeze(1)[torch.randperm(int(learn.sum()))].split(64):
        output = model({name: x[rows] for name, x in inputs.items()}, present[rows])
        losses = fusion_loss(output, output.predictions, labels[rows], output.features)
        heads = unimodal_loss(output.mc_logits, labels[rows], output.active)
        optimizer.zero_grad()
        (losses["total"] + heads).backward()
        optimizer.step()
        total += float(losses["total"].detach()) * len(rows)
    model.eval()
    with torch.no_grad():
        output = model({name: x[test] for name, x in inputs.items()}, present[test])
    right = (output.predictions.argmax(1) == labels[test]).float().mean()
    each = cross_entropy(output.predictions, labels[test])
    history.append((total / int(learn.sum()), float(each), float(right)))

figure, (left, other) = plt.subplots(1, 2, figsize=(8, 2.6))
figure.suptitle("Encoders, heads and policy learn together")
epochs = range(1, len(history) + 1)
for place, (name, colour) in enumerate({"training": GREY, "test": BLACK}.items()):
    left.plot(epochs, [line[place] for line in history], color=colour, label=name)
left.set(xlabel="epoch", ylabel="loss of the fused value", ylim=(0, None))
left.legend(frameon=False)
other.plot(epochs, [100 * line[2] for line in history], color=BLACK)
other.set(xlabel="epoch", ylabel="right answers in the test, %", ylim=(0, 100))
print(f"right in {history[-1][2]:.1%} of {int(test.sum())} scans")

# %%
# One input gets worse
# --------------------
#
# Now the picture drowns in noise, and everything else stays as it is. Nobody tells the model.


def noisy(level):
    """Gives the inputs with noise on the pixels, the same noise for every level."""
    noise = torch.randn(inputs["pixels"].shape, generator=torch.Generator().manual_seed(0))
    return inputs | {"pixels": inputs["pixels"] + level * noise}


@torch.no_grad()
def measured(model):
    """Gives the mean weights where all three are present, and the share of right answers."""
    weights, right = [], []
    for level in levels:
        output = model({name: x[test] for name, x in noisy(level).items()}, present[test])
        weights.append(output.weights[present[test].all(1)].mean(0))
        answers = output.probabilities.argmax(1) == labels[test]
        right.append(float(answers.float().mean()))
    return torch.stack(weights), right


levels = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0)
trained = measured(model)
print("weights of the pixels:", [round(float(w), 2) for w in trained[0][:, 0]])

# %%
# They hardly fall. A network that has never seen noise can be sure of nonsense, and confidence is
# all that this rule looks at. Training on noise of one kind would help against that kind.
#
# Learn what is typical
# ---------------------
#
# ``dms fit`` goes another way. It learns what each encoder's output looks like, on rows that the
# encoder has not learned from. ``embed`` runs the encoders alone, and ``from_artifact`` puts them
# in front of the result. The encoders stay as they are.

from dms_spec.embeddings.table import Table
from dms_torch.fit import FitSettings, fit

with torch.no_grad():
    embeddings, there = model.embed({name: x[rest] for name, x in inputs.items()}, present[rest])
arrays = {name: x.numpy() for name, x in embeddings.items()}
arrays |= {"present": there.numpy(), "present_names": names, "labels": labels[rest].numpy()}
fitted = fit(Table.from_arrays(arrays), SchedulerSpec.preset("robust", names), FitSettings())
whole = FusionModel.from_artifact(encoders, fitted.artifact).eval()
robust = measured(whole)

shown = int((test & present.all(1)).nonzero()[0])
figure = plt.figure(figsize=(8, 4))
above, below = figure.subfigures(2, 1, height_ratios=(1, 2.2))
for axes, level in zip(above.subplots(1, len(levels)), levels, strict=True):
    axes.imshow(noisy(level)["pixels"][shown].reshape(8, 8), cmap="gray_r", vmin=0, vmax=1)
    axes.set(title=f"noise {level:g}", xticks=[], yticks=[])
left, middle, right = below.subplots(1, 3)
for axes, title, weights in (
    (left, "weights as trained", trained[0]),
    (middle, "weights with typicality", robust[0]),
):
    for name, colour, line in zip(names, (BLUE, TEAL, MAGENTA), weights.T, strict=True):
        axes.plot(levels, line, color=colour, marker="o", markersize=3, label=name)
    axes.set(title=title, xlabel="noise on the pixels", ylim=(0, 1))
left.legend(frameon=False)
for label, colour, share in (
    ("as trained", GREY, trained[1]),
    ("with typicality", BLACK, robust[1]),
):
    right.plot(levels, [100 * one for one in share], color=colour, label=label)
right.set(title="right answers, %", xlabel="noise on the pixels", ylim=(0, 100))
right.legend(frameon=False, loc="lower left")
for name, (_, share) in (("as trained", trained), ("with typicality", robust)):
    print(f"{name}: {share[0]:.1%} right without noise, {share[-1]:.1%} at the end")

# %%
# As trained, the pixels get weight back as the noise grows: the encoder is sure of nonsense. With
# typicality they lose it, once what the encoder gives looks like nothing that it gave before. The
# other two share the rest alike, so one line hides the other. Noise of 0.5 is the hardest: there
# the pixels mislead, and still look nearly right.
#
# ``whole`` is a module like any other: train on, move it to a GPU, or save its ``state_dict``.
# ``whole.artifact()`` gives the scheduler back, for ``dms export onnx``. :doc:`/guide/torch` says
# more.
