"""Serves an exported graph over HTTP, requests that arrive together in one run.

``dms export onnx model -o served``, then ``MODEL=served/onnx/model.onnx uvicorn serve:app``. A
request is a row, such as ``{"image": [0.1, 0.2], "text": null}``. A modality that is null or not
there is missing.
"""

import asyncio
import os
from contextlib import asynccontextmanager

import numpy as np
import onnxruntime
from fastapi import FastAPI, HTTPException

MOST, WAIT = int(os.environ.get("MOST", "32")), 0.002  # rows of one run; seconds for the next one

session = onnxruntime.InferenceSession(os.environ["MODEL"], providers=["CPUExecutionProvider"])
widths = {v.name: v.shape[1] for v in session.get_inputs() if v.name != "present"}
names = [v.name for v in session.get_outputs()]
queue: asyncio.Queue = asyncio.Queue()


async def run_batches():
    while True:
        waiting = [await queue.get()]
        while len(waiting) < MOST:
            try:
                waiting.append(await asyncio.wait_for(queue.get(), WAIT))
            except TimeoutError:
                break
        rows, answers = zip(*waiting, strict=True)
        inputs = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        try:
            found = await asyncio.to_thread(session.run, names, inputs)
        except Exception as error:
            for answer in answers:
                answer.set_exception(error)
            continue
        for k, answer in enumerate(answers):
            if not answer.cancelled():
                answer.set_result({n: one[k].tolist() for n, one in zip(names, found, strict=True)})


@asynccontextmanager
async def lifespan(_):
    task = asyncio.create_task(run_batches())
    yield
    task.cancel()


app = FastAPI(lifespan=lifespan)


@app.post("/score")
async def score(sample: dict[str, list[float] | None]):
    for name, values in sample.items():  # one bad row must not fail those beside it
        if values is not None and len(values) != widths.get(name):
            raise HTTPException(422, f"{name}: expected {widths}, got {len(values)} numbers")
    given = {name: sample.get(name) for name in widths}
    row = {n: np.array(v or [0.0] * widths[n], "f4") for n, v in given.items()}
    row["present"] = np.array([values is not None for values in given.values()])
    answer = asyncio.get_running_loop().create_future()
    await queue.put((row, answer))
    return await answer
