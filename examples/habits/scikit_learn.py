import numpy as np

from dms_spec import FusionClassifier

table = np.load("train.npz")
X = np.hstack([table[name] for name in ("pixels", "projections", "spectrum", "gradients")])
blocks = {"pixels": slice(0, 64), "projections": slice(64, 80)}
blocks |= {"spectrum": slice(80, 120), "gradients": slice(120, 152)}
y, early = table["labels"], table["groups"] < 4
classifier = FusionClassifier(blocks).fit(X[early], y[early], groups=table["groups"][early])
print(classifier.score(X[~early], y[~early]), classifier.explain(X[-1:]))
classifier.to_onnx("from-scikit-learn")
