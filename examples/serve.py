"""Serves an exported graph over HTTP, requests that arrive together in one run.

``dms export onnx model -o served``, then ``MODEL=served/onnx/model.onnx uvicorn serve:app``. A
request is a row, such as ``{"image": [0.1, 0.2], "text": null}``. A modality that is null or not
there is missing.
"""

import asyncio
import os

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException

MOST, WAIT = int(os.environ.get("MOST", "32")), 0.002  # rows of one run; seconds for others to join
app = FastAPI()
session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
widths = {v.name: v.shape[1] for v in session.get_inputs() if v.name != "present"}
names = [v.name for v in session.get_outputs()]
rows, answers = [], None  # of the batch that others can join


async def run(rows):
    await asyncio.sleep(WAIT)
    batch, rows[:] = rows[:], []  # whoever comes now begins another
    inputs = {n: np.array([r.get(n) or [0.0] * w for r in batch], "f4") for n, w in widths.items()}
    inputs["present"] = np.array([[r.get(n) is not None for n in widths] for r in batch])
    return await asyncio.to_thread(session.run, names, inputs)


@app.post("/score")
async def score(sample: dict[str, list[float] | None]):
    global rows, answers
    for name, values in sample.items():  # one bad row must not fail those beside it
        if name not in widths or (values is not None and len(values) != widths[name]):
            raise HTTPException(422, f"{name}: expected {widths}, got {len(values or ())} numbers")
    if not 0 < len(rows) < MOST:
        rows = []
        answers = asyncio.create_task(run(rows))
    place, own = len(rows), answers
    rows.append(sample)
    found = await asyncio.shield(own)  # one client that leaves must not stop those beside it
    return {name: array[place].tolist() for name, array in zip(names, found, strict=True)}
