"""Normalisation over two real workers against plain torch on all their samples at once."""

import copy

import pytest
import torch
from torch import distributed, multiprocessing, nn

from posec3d.synced import synced

CLIPS = (3, 5)
"""Of the two workers: their numbers differ."""


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv3d(2, 4, 1), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 8, 3)).double()


def clips():
    # A mean that is large against the spread: where careless arithmetic loses its digits.
    return 100 + torch.randn(sum(CLIPS), 2, 2, 2, 2, generator=torch.Generator().manual_seed(1)).double()


def work(rank, folder):
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    model = synced(network(), "cpu")
    mine = clips()[sum(CLIPS[:rank]) : sum(CLIPS[: rank + 1])]
    out = model(mine)
    out.square().sum().backward()
    gradients = {name: value.grad for name, value in model.named_parameters()}
    torch.save([out.detach(), gradients, model.state_dict()], f"{folder}/{rank}.pt")
    distributed.destroy_process_group()


@pytest.mark.slow
def test_two_workers_normalise_as_one_does_with_all_their_clips(tmp_path):
    multiprocessing.spawn(work, (str(tmp_path),), 2)
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1)]
    model = network()
    out = model(clips())
    out.square().sum().backward()
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), out.detach())
    for name, value in model.named_parameters():
        torch.testing.assert_close(parts[0][1][name] + parts[1][1][name], value.grad)
    for part in parts:
        assert part[2].keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            torch.testing.assert_close(part[2][name], value)


def test_evaluation_is_plain_batch_norm():
    model = network().eval()
    plain = copy.deepcopy(model)
    torch.testing.assert_close(synced(model, "cpu")(clips()), plain(clips()))
