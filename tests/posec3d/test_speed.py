"""Precision as asked for; a compiled model says what the plain one says, and falls back to it with a warning."""

import copy

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


def test_convolutions_of_one_thread_say_and_learn_the_same():
    torch.manual_seed(0)
    plain = nn.Sequential(
        nn.Conv3d(3, 4, 1),
        nn.Conv3d(4, 4, 1, (1, 2, 2)),
        nn.Conv3d(4, 5, (3, 1, 1), padding=(1, 0, 0)),
        nn.Conv3d(5, 2, 3),
    )
    quick = copy.deepcopy(plain)
    speed.for_one_thread(quick)
    assert [layer.dilation for layer in quick] == [(1, 1, 2), (1, 1, 1), (1, 1, 2), (1, 1, 1)]
    x = torch.rand(2, 3, 6, 9, 9)
    for model in (plain, quick):
        model(x).square().sum().backward()
    torch.testing.assert_close(quick(x), plain(x))
    for a, b in zip(quick.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-4, atol=1e-5)
