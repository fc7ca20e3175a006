"""Compiled models: hooks are never ignored, whichever comes first."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from test_properties import BOTH, attached
from tiny_models import build

# Of torch itself, about its own functions, while it traces masks of the older line.
pytestmark = pytest.mark.filterwarnings("ignore:.*should not be instantiated:DeprecationWarning")


def compiled(model: Any) -> Any:
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("first", ["attach", "compile", "compile in place"])
def test_compiled_as_not_compiled(first: str) -> None:
    """In one family: tracing takes half a minute for each."""
    model, inputs = build("llava")
    given = inputs(BOTH)
    with torch.no_grad():
        plain = model(**given).logits
        with attached(model, 0.2, "attention"):
            weighed = model(**given).logits
        assert not torch.allclose(weighed, plain, atol=1e-3)
        run = model
        if first == "compile":
            run = compiled(model)
        elif first == "compile in place":
            model.compile(backend="eager")
        if first != "attach":
            torch.testing.assert_close(run(**given).logits, plain)
        with attached(run, 0.2, "attention") as handle:
            if first == "attach":
                run = compiled(model)
            torch.testing.assert_close(run(**given).logits, weighed)
            torch.testing.assert_close(run(**given).logits, weighed)
            assert handle.last is not None
            torch.testing.assert_close(handle.last.weights, torch.tensor([[0.2, 0.8]] * 2))
        torch.testing.assert_close(run(**given).logits, plain)
