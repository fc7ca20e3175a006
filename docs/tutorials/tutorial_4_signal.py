"""
Your own signal
===============

A signal says how far a modality looks worthy of trust. It is one function. This page writes one,
looks at what it sees, and uses it in NumPy, in PyTorch and in an ONNX file.

The idea
--------

The built-in ``confidence`` is one minus an entropy: it looks at all classes at once. Maybe all that
counts is how far the most likely class is ahead of the next. Call that the ``margin``.

A signal is a plugin, in a distribution of two files. The first is the module. The function gets
arrays of any library, so it computes with ``ns.xp``, the library's array API:

.. literalinclude:: /tutorials/my_signal/margin.py

The second is ``pyproject.toml``. Its entry point tells dms-spec which module to ask:

.. literalinclude:: /tutorials/my_signal/pyproject.toml
   :language: toml

Install it
----------

In a terminal this is ``pip install --editable my_signal``. A page that is being built should
install nothing. So it does what such an install does: it writes down the entry point, beside the
module, where Python looks for both."""

import shutil
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import dms_spec.plugins
from dms_spec.cli import main as dms
from dms_spec.colours import BLUE, MAGENTA, TEAL

installed, source = Path("installed"), Path("my_signal")
about = installed / "dms_margin-1.0.dist-info"
about.mkdir(parents=True, exist_ok=True)
shutil.copy(source / "margin.py", installed)
(about / "METADATA").write_text("Metadata-Version: 2.1\nName: dms-margin\nVersion: 1.0\n")
(about / "entry_points.txt").write_text("[dms_spec]\nmargin = margin\n")
sys.path.insert(0, str(installed.resolve()))
dms_spec.plugins.refresh()

record = next(r for r in dms_spec.plugin_records() if r.name == "margin")
print(record.kind, record.name, "is", record.status, "from", record.distribution)

# %%
# ``dms plugins list`` would show the same line among all others.
#
# What does it see?
# -----------------
#
# Three classes make a triangle of all possible answers. A corner is certain of its class, and the
# centre knows nothing. Colour is the signal.

from dms_spec import ModalityBatch, SchedulerSpec, get_backend

spec = SchedulerSpec(
    modalities=("one",),
    policy="linear",
    signals={"confidence": {}, "margin": {}},
    coefficients={"confidence": 1.0, "margin": 1.0},
    fusion="probability",
)
steps = np.linspace(0, 1, 121)
first, second = (x.ravel() for x in np.meshgrid(steps, steps))
inside = first + second <= 1 + 1e-9
p = np.stack([first, second, 1 - first - second], axis=1)[inside].clip(1e-6)
scheduler = get_backend("numpy").scheduler(spec)
signals = scheduler(ModalityBatch(logits=np.log(p)[:, None])).signals

x, y = p[:, 1] + p[:, 2] / 2, p[:, 2] * np.sqrt(3) / 2
figure, panels = plt.subplots(1, 2, figsize=(8, 3.4))
for axes, name in zip(panels, signals, strict=True):
    values = signals[name][:, 0]
    seen = axes.tricontourf(x, y, values, levels=np.linspace(0, 1, 21), cmap="viridis")
    axes.tricontour(x, y, values, levels=[0.25, 0.5, 0.75], colors="white", linewidths=0.8)
    axes.set_title(name, pad=16)
    axes.set_aspect("equal")
    axes.set_axis_off()
    for corner, place in zip("ABC", ((-0.05, -0.03), (1.05, -0.03), (0.5, 0.91)), strict=True):
        axes.text(*place, corner, ha="center", va="center")
figure.colorbar(seen, ax=panels, label="signal", ticks=[0, 0.25, 0.5, 0.75, 1])

# %%
# They agree at the corners and at the centre. In the middle of an edge they do not: there, two
# classes are equally likely and the third is out. Confidence counts that for something. The margin
# counts it for nothing.
#
# Weights
# -------
#
# So they weigh two modalities in different ways. Modality ``one`` is torn between A and B.
# Modality ``two`` leans to C.

torn, leaning = (0.49, 0.49, 0.02), (0.22, 0.22, 0.56)
batch = ModalityBatch(logits=np.log([[torn, leaning]]))
spec = SchedulerSpec(
    modalities=("one", "two"), policy="linear", signals={}, coefficients={}, fusion="probability"
)


def by(signal):
    """Gives a spec that weighs by one signal alone."""
    return spec.replace(signals={signal: {}}, coefficients={signal: 4.0})


figure, panels = plt.subplots(1, 2, figsize=(8, 2.4))
for axes, signal in zip(panels, ("confidence", "margin"), strict=True):
    schedule = get_backend("numpy").scheduler(by(signal))(batch)
    rows = [torn, leaning, schedule.fused[0]]
    left = np.zeros(3)
    for label, colour, share in zip("ABC", (BLUE, TEAL, MAGENTA), np.transpose(rows), strict=True):
        axes.barh([0, 1, 2.3], share, left=left, color=colour, height=0.8, label=label)
        left += share
    weights = schedule.weights[0]
    names = [f"one, weight {weights[0]:.2f}", f"two, weight {weights[1]:.2f}", "fused"]
    axes.set(title=f"weighed by {signal}", xlabel="probability", xlim=(0, 1))
    axes.set_yticks([0, 1, 2.3], names)
    axes.invert_yaxis()
figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right center", frameon=False)

# %%
# Learn with it, and take it along
# --------------------------------
#
# A spec is all that ``dms fit`` needs. Here it learns one model for each signal. It has no
# typicality, to keep the two apart.

from dms_spec import FusionClassifier

table = np.load("train.npz")
test = {name: array[table["test"]] for name, array in table.items()}
views = ("pixels", "projections", "spectrum", "gradients")
for signal in ("confidence", "margin"):
    own = by(signal).replace(modalities=views)
    classifier = FusionClassifier(spec=own).fit(table)
    print(f"{signal:10} {classifier.score(test, test['labels']):.1%} right")

# %%
# On these scans the two are as good as each other, so nothing speaks for the new one. That is a
# result too.
#
# The function ran in NumPy to make the pictures. PyTorch runs the same function, and gives the same
# weights. The exporter traces it into a graph, and compares the two before it keeps the file.

weights = {}
for name in ("numpy", "torch"):
    backend = get_backend(name)
    moved = ModalityBatch(logits=backend.from_numpy(batch.logits, "cpu"))
    weights[name] = backend.to_numpy(backend.scheduler(by("margin"))(moved).weights)
print(abs(weights["numpy"] - weights["torch"]).max())

Path("by_margin.json").write_text(by("margin").to_json())
dms(["export", "onnx", "by_margin.json", "-o", "models/margin", "--overwrite"])

# %%
# Whoever loads that file needs neither the plugin nor dms-spec. :doc:`/guide/plugins` says what a
# signal may rely on, and how a policy is written.
