"""
How much do I lose when the camera dies?
========================================

``dms robustness`` breaks your inputs on purpose, and measures what is left. This page reads its report
on the model of :doc:`tutorial_1_onnx`. The camera is the modality ``pixels``.

Measure
-------

In a terminal this is one line, ``dms robustness digits train.npz -o report`` and the options below.
``--modalities pixels`` breaks the camera in every scan, and nothing else.
"""

import matplotlib.pyplot as plt

from dms_spec.cli import main as dms
from dms_spec.colours import BLACK, GREY, MAGENTA, TEAL

breaks = ("gaussian:0.1,0.2,0.4,0.8", "stuck", "zeroed", "swap:1", "absent")
options = [word for one in breaks for word in ("--corruption", one)]
dms(["robustness", "digits", "train.npz", "-o", "report", "--modalities", "pixels", *options])
