"""examples/serve.py over loopback, where FastAPI is installed: make test-serve."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fuzzing import small_artifact

from dms_spec.artifact import save_artifact
from dms_spec.cli import main
from dms_spec.embeddings.predictor import Predictor
from dms_spec.embeddings.table import Table
from dms_spec.plugins import get_backend

ROOT = Path(__file__).resolve().parents[1]

for package in ("fastapi", "uvicorn", "onnxruntime"):
    pytest.importorskip(package)


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """A server on loopback."""
    folder = tmp_path_factory.mktemp("served")
    save_artifact(folder / "art", small_artifact())
    assert main(["export", "onnx", str(folder / "art"), "-o", str(folder)]) == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        number = free.getsockname()[1]
    command = ["uvicorn", "serve:app", "--port", str(number), "--log-level", "warning"]
    environment = os.environ | {"MODEL": str(folder / "onnx" / "model.onnx")}
    with subprocess.Popen(
        [sys.executable, "-m", *command], cwd=ROOT / "examples", env=environment
    ) as process:
        for _ in range(200):
            with socket.socket() as probe:
                if process.poll() is not None or not probe.connect_ex(("127.0.0.1", number)):
                    break
            time.sleep(0.1)
        yield number
        process.terminate()


async def ask(port: int, sample: dict[str, Any]) -> tuple[int, Any]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    body = json.dumps(sample).encode()
    head = (
        f"POST /score HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(body)}\r\n"
    )
    writer.write(head.encode() + b"Content-Type: application/json\r\n\r\n" + body)
    answer = await reader.read()
    writer.close()
    await writer.wait_closed()
    top, _, text = answer.partition(b"\r\n\r\n")
    return int(top.split()[1]), json.loads(text)


def test_requests_that_arrive_together_get_what_predict_says(port: int) -> None:
    """Fifty at once, some without a modality, and some among them that are wrong."""
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(2, 50, 3)).astype("f4")
    there = draw.random((50, 2)) < 0.8
    samples: list[dict[str, Any]] = [
        {n: v[k].tolist() if there[k, m] else None for m, (n, v) in enumerate((("a", a), ("b", b)))}
        for k in range(50)
    ]
    wrong = [{"a": [1.0, 2.0]}, {"c": [1.0]}, {"c": None}, {"a": []}, {"a": "x"}]

    async def everything() -> list[tuple[int, Any]]:
        return await asyncio.gather(*(ask(port, sample) for sample in [*samples, *wrong]))

    answers = asyncio.run(everything())
    found, refused = answers[:50], answers[50:]
    table = Table(embeddings={"a": a, "b": b}, present=there)
    wanted = Predictor(small_artifact(), get_backend("numpy")).predict(table)
    assert {code for code, _ in found} == {200}
    for name in ("probabilities", "weights"):
        got = np.array([answer[name] for _, answer in found])
        assert np.abs(got - wanted[name]).max() < 1e-5, name
    assert [code for code, _ in refused] == [422] * len(wrong)
    assert refused[0][1]["detail"] == "a: expected {'a': 3, 'b': 3}, got 2 numbers"
