"""Times `dms_torch.Fusion` on a GPU, as a fraction of copying as many bytes on the same device.

``python benchmarks/bench_gpu.py [-o results.csv]``. *copy* reads and writes as many bytes as
scheduling has to read and write once; its bandwidth is that of a large copy in the same run. With
the backward pass that is three times as many: inputs are read twice, and gradients written. The
baselines are the naive module of `naive.py`, eager and compiled; `Fusion` runs on each path that
the device has, plain and Triton. Values are compared before
anything is timed. Times are medians of CUDA events, with the quantiles .2 and .8. At B = 32 the
launches are what counts, so there they are recorded in CUDA graphs as well; eager `Fusion` looks at
values, which no such graph can.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from naive import naive
from torch import Tensor

from dms_spec.spec import SchedulerSpec
from dms_spec.speed.session import save
from dms_spec.speed.setting import setting
from dms_torch import Fusion, paths

#: (B, M, D, C, T), the largest of about a gigabyte and more.
SHAPES = (
    (16384, 2, 768, 1000, 10),
    (4096, 3, 4096, 3129, 8),
    (65536, 6, 512, 10, 16),
    (32, 3, 768, 1000, 10),
)
Arrays = dict[str, Tensor]


def batch(shape: tuple[int, ...], device: str) -> Arrays:
    b, m, d, c, t = shape
    random = torch.Generator(device).manual_seed(0)

    def normal(*sizes: int) -> Tensor:
        return torch.randn(sizes, generator=random, device=device)

    present = torch.rand((b, m), generator=random, device=device) < 0.9
    present[:, 0] = True
    return {
        "features": normal(b, m, d),
        "logits": 3 * normal(b, m, c),
        "mc_logits": 3 * normal(t, b, m, c),
        "present": present,
    }


def milliseconds(call: Callable[[], object], device: str, seconds: float) -> list[float]:
    """Times each of as many runs as fit into a time, after three to warm up."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 5:
        if device == "cpu":
            start = time.perf_counter()
            call()
            times.append(1e3 * (time.perf_counter() - start))
            continue
        first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        first.record()
        call()
        last.record()
        last.synchronize()
        times.append(first.elapsed_time(last))
    return times


def bandwidth(device: str, seconds: float, size: int) -> float:
    """Bytes in a millisecond, read and written, of copying ``size`` bytes."""
    source = torch.zeros(size // 4, device=device)
    target = torch.empty_like(source)
    median = statistics.median(milliseconds(lambda: target.copy_(source), device, seconds))
    return 2 * size / median


def with_backward(call: Callable[..., tuple[Tensor, ...]], arrays: Arrays) -> None:
    """Forward and backward to all floating inputs, as encoders that learn need it."""
    leaves = {
        name: x.detach().requires_grad_() if x.is_floating_point() else x
        for name, x in arrays.items()
    }
    fused, weights = call(**leaves)[:2]
    torch.autograd.backward(fused.square().sum() + weights.square().sum())


def in_graph(call: Callable[[], object]) -> Callable[[], object]:
    """Records what a call launches, once, and replays it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph.replay


def available(device: str) -> tuple[str, ...]:
    """The paths that can run on the device; says why Triton is left out, where it is."""
    if found := paths.obstacle("triton", torch.empty(1, device=device)):
        print(f"Triton is left out: {found.reason}")
        return ("plain",)
    return ("plain", "triton")


def measure(
    shape: tuple[int, ...],
    device: str,
    seconds: float,
    speed: float,
    choice: tuple[str, ...],
    *,
    compiled: bool,
) -> Iterator[dict[str, object]]:
    arrays = batch(shape, device)
    spec = SchedulerSpec.preset("paper", tuple("abcdefgh"[: shape[1]]))
    # The naive module ignores presence in alignment, so that all of it must be there to compare.
    everything = arrays | {"present": torch.ones_like(arrays["present"])}
    calls: dict[str, Callable[..., tuple[Tensor, ...]]] = {"naive": naive}
    for path in choice:
        calls[f"Fusion, {path}"] = Fusion(spec, path=path).to(device)
    if compiled:
        calls |= {
            f"{name}, compiled": torch.compile(call, fullgraph=True) for name, call in calls.items()
        }
    expected = naive(**everything)[1]
    floats = [x for x in arrays.values() if x.is_floating_point()]
    moved = sum(x.nbytes for x in floats) + shape[0] * (shape[1] + shape[2]) * 4
    limits = {"forward": moved / speed, "forward + backward": 3 * moved / speed}
    for name, call in calls.items():
        with torch.no_grad():
            error = float((call(**everything)[1] - expected).abs().max())
        if error > 1e-5:
            sys.exit(f"{name} is wrong by {error}: nothing to time")
        runs: dict[str, Callable[[], object]] = {"forward": lambda call=call: call(**arrays)}
        for what, run in runs.items():
            with torch.no_grad():
                yield row(shape, name, what, milliseconds(run, device, seconds), limits[what])
                eager = name.startswith("Fusion") and "compiled" not in name
                if device != "cpu" and shape[0] <= 64 and not eager:
                    times = milliseconds(in_graph(run), device, seconds)
                    yield row(shape, f"{name}, CUDA graph", what, times, limits[what])
        what = "forward + backward"
        times = milliseconds(lambda call=call: with_backward(call, arrays), device, seconds)
        yield row(shape, name, what, times, limits[what])


def row(
    shape: tuple[int, ...], name: str, what: str, times: list[float], limit: float
) -> dict[str, object]:
    fifth = statistics.quantiles(times, n=5)
    median = statistics.median(times)
    return {
        "B": shape[0],
        "M": shape[1],
        "D": shape[2],
        "C": shape[3],
        "T": shape[4],
        "contender": name,
        "what": what,
        "ms": f"{median:.4f}",
        "p20": f"{fifth[0]:.4f}",
        "p80": f"{fifth[-1]:.4f}",
        "fraction_of_copy": f"{limit / median:.3f}",
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--output", type=Path, help="CSV file for the results")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--seconds", type=float, default=1.0, help="per measurement")
    parser.add_argument("--shrink", type=int, default=1, help="divide B by this, to try the script")
    parser.add_argument("--eager", action="store_true", help="compile nothing")
    args = parser.parse_args()
    if args.device != "cpu" and not torch.cuda.is_available():
        sys.exit("there is no CUDA device: nothing was measured")
    warnings.simplefilter("ignore")  # of the compiler's, about itself
    name = torch.cuda.get_device_name() if args.device != "cpu" else "cpu"
    speed = bandwidth(args.device, args.seconds, (1 << 30) // args.shrink)
    print(f"{name}, torch {torch.__version__}: a copy moves {speed / 1e6:.0f} GB/s")
    rows, choice = [], available(args.device)
    for shape in SHAPES:
        shape = (max(1, shape[0] // args.shrink), *shape[1:])
        found = measure(shape, args.device, args.seconds, speed, choice, compiled=not args.eager)
        for one in found:
            print(
                f"{shape!s:<28} {one['what']:<19} {one['contender']:<28} {one['ms']:>10} ms  "
                f"{one['fraction_of_copy']} of copy"
            )
            rows.append(one | {"gpu": name, "torch": torch.__version__} | setting())
    if args.output:
        save(args.output, rows)


if __name__ == "__main__":
    main()
