"""Precision as asked for; a compiled model says what the plain one says, and falls back to it with a warning."""

import pytest
import torch
from torch import nn

from posec3d import speed


def test_precision_is_what_the_device_has():
    assert speed.resolve("float32", "cpu") == torch.float32
    assert speed.resolve("bfloat16", "cpu") == torch.bfloat16
    assert speed.resolve("auto", "cpu") == torch.float32
    with pytest.raises(ValueError, match="float16 is for GPUs"):
        speed.resolve("float16", "cpu")


def test_autocast_computes_in_the_type_and_float32_is_none():
    layer, x = nn.Conv3d(2, 2, 1), torch.rand(1, 2, 2, 2, 2)
    with speed.autocast(torch.bfloat16, "cpu"):
        assert layer(x).dtype == torch.bfloat16
    with speed.autocast(torch.float32, "cpu"):
        assert layer(x).dtype == torch.float32


@pytest.mark.slow
def test_a_compiled_model_says_and_learns_the_same():
    model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)), torch.rand(3, 4)
    compiled = speed.Compiled(model)
    torch.testing.assert_close(compiled(x), model(x))
    compiled(x).sum().backward()
    assert model[0].weight.grad is not None


def test_without_a_compiler_the_model_runs_as_it_is(monkeypatch, caplog):
    torch._dynamo.reset()
    with torch._inductor.config.patch({"cpp.cxx": ("/nowhere/g++",), "force_disable_caches": True}):
        model, x = nn.Sequential(nn.Linear(4, 8), nn.ReLU()), torch.rand(3, 4)
        compiled = speed.Compiled(model)
        torch.testing.assert_close(compiled(x), model(x))
        torch.testing.assert_close(compiled(x), model(x))
    assert caplog.text.count("torch.compile failed") == 1 and "the model runs as it is" in caplog.text


def test_an_error_of_the_model_itself_is_not_hidden():
    class Broken(nn.Module):
        def forward(self, x):
            raise RuntimeError("no such thing")

    with pytest.raises(RuntimeError, match="no such thing"):
        speed.Compiled(Broken())(torch.rand(1))
