"""Load on examples/serve.py over loopback: answers per second, and how long one takes.

``python benchmarks/bench_serve.py model.onnx``. The server takes one core, the clients another.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

PORT, CLIENTS, EACH = 8123, 32, 100
EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


async def client(body: bytes, seconds: list[float]) -> None:
    """Asks again and again over one connection."""
    reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
    head = f"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n"
    request = head.encode() + b"Content-Type: application/json\r\n\r\n" + body
    for _ in range(EACH):
        start = time.perf_counter()
        writer.write(request)
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        assert " 200 " in head, head
        await reader.readexactly(int(head.partition("content-length: ")[2].split()[0]))
        seconds.append(time.perf_counter() - start)
    writer.close()


async def load(body: bytes) -> dict[str, float]:
    seconds: list[float] = []
    await asyncio.gather(*(client(body, []) for _ in range(4)))
    start = time.perf_counter()
    await asyncio.gather(*(client(body, seconds) for _ in range(CLIENTS)))
    wall = time.perf_counter() - start
    half, most = np.quantile(seconds, (0.5, 0.99)) * 1000
    return {
        "per_s": round(len(seconds) / wall),
        "median_ms": round(half, 1),
        "p99_ms": round(most, 1),
    }


def used(process: int) -> float:
    """CPU seconds that a process has used."""
    words = Path(f"/proc/{process}/stat").read_text().split()
    return (int(words[13]) + int(words[14])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model", type=Path)
    args = parser.parse_args()
    import onnxruntime

    inputs = onnxruntime.InferenceSession(str(args.model)).get_inputs()
    sample = {
        v.name: np.random.default_rng(0).normal(size=v.shape[1]).tolist() for v in inputs[:-1]
    }
    body = json.dumps(sample).encode()
    for most in (1, 32):
        settings = {"MODEL": str(args.model.resolve()), "MOST": str(most), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "uvicorn", "serve:app", "--port", str(PORT)]
        with subprocess.Popen(
            [*command, "--log-level", "warning"], cwd=EXAMPLES, env=os.environ | settings
        ) as server:
            time.sleep(8)
            before = used(server.pid)
            found = asyncio.run(load(body))
            found["server_cpu_s"] = round(used(server.pid) - before, 1)
            print(json.dumps({"rows_of_one_run": most, "clients": CLIENTS, **found}), flush=True)
            server.terminate()


if __name__ == "__main__":
    main()
