"""
How much do I lose when the camera dies?
========================================

``dms robustness`` breaks your inputs on purpose, and measures what is left. This page reads its
report on the model of :doc:`tutorial_1_onnx`. The camera is the modality ``pixels``.

Measure
-------

In a terminal this is one line, ``dms robustness models/digits train.npz -o report`` and the options
below. ``--modalities pixels`` breaks the camera in every scan, and nothing else.
"""

import matplotlib.pyplot as plt

from dms_spec.cli import main as dms
from dms_spec.colours import BLACK, GREY, MAGENTA, TEAL

breaks = ("gaussian:0.1,0.2,0.4,0.8", "stuck", "zeroed", "swap:1", "absent")
options = [word for one in breaks for word in ("--corruption", one)]
dms(
    ["robustness", "models/digits", "train.npz", "-o", "report", "--modalities", "pixels", *options]
)

# %%
# Read the table
# --------------
#
# A row is one way to break the camera. ``fusion`` is the fitted model. ``static`` is the plain mean
# of the same modalities. The ``mask oracle`` is the mean of what was not broken, which no real
# method can know. ``gain`` is fusion less static, with its standard error. Only a difference of
# more than three standard errors counts as clear.
#
# So read it from the bottom. ``absent`` is a camera that is dead and known to be dead: that loss is
# the price of the camera itself. Each other row is a camera that lies. What is lost there beyond
# ``absent`` is the price of not knowing.
#
# The report keeps every number, and a picture of your own takes a few lines:

from dms_spec.robustness import read_result

result = read_result("report/robustness.json")
colours = {"fusion": BLACK, "static": GREY, "mask oracle": TEAL, "pixels alone": MAGENTA}
noise = [c for c in result.conditions if c[0] in ("clean", "gaussian")]
others = [c for c in result.conditions if c[0] not in ("clean", "gaussian")]

figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), sharey=True)
figure.suptitle("What is left when the camera is broken")
for name, colour in colours.items():
    left.plot([result.mean("accuracy", name, *c) for c in noise], color=colour, marker="o")
    right.plot([result.mean("accuracy", name, *c) for c in others], "o", color=colour, label=name)
left.set(xlabel="noise on the pixels, standard deviation", ylabel="accuracy", ylim=(0, 1))
left.set_xticks(range(len(noise)), ["clean", *(f"{c[1]:g}" for c in noise[1:])])
ticks = [c[0] + (f" {c[1]:g}" if c[0] == "stuck" else "") for c in others]
right.set_xticks(range(len(others)), ticks, rotation=25)
right.legend(loc="center left", frameon=False)

# %%
# The camera alone falls, to chance where it is stuck or dark. The three others carry the answer, so
# the fused lines stay high.
#
# Say it in words
# ---------------
#
# The numbers that somebody asks for are differences:

clean = result.mean("accuracy", "fusion", "clean")
for condition in others:
    loss = clean - result.mean("accuracy", "fusion", *condition)
    print(f"{condition[0]:7} {condition[1]:3g}  {100 * loss:4.1f} points lost")

# %%
# Here the answer is: a dead camera costs less than a point if you say so. Mark it in ``present``
# whenever you can. Noise costs about as little here. Another scan's picture costs most. It looks
# like any other picture, so no look at the input can find it out.
#
# The findings below the table add the honest part: on this small test, no row has a clear
# difference from the static mean. :doc:`/guide/robustness` lists all ways to break an input.
