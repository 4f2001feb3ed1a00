"""The device that only pretends refuses what a GPU refuses, and computes what the CPU computes."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from support.elsewhere import pretending
from torch import Tensor, nn


@pytest.fixture
def there() -> Iterator[Callable[[Tensor], bool]]:
    with pretending() as found:
        yield found


@pytest.mark.parametrize(
    "mistake",
    [
        lambda far: far + torch.ones(3),
        lambda far: far.addmm(far, torch.ones(3, 3)),
        lambda far: nn.functional.linear(far, torch.ones(3, 3)),
        lambda far: torch.stack([far[0, 0], torch.tensor(1.0)]),
        lambda far: torch.cat([far, torch.ones(3, 3)]),
        lambda far: torch.ones(3, 3)[far.argmax(1)],
        lambda far: torch.ones(3, 3).add_(far),
    ],
)
def test_tensors_of_two_devices_are_not_mixed(
    there: Callable[[Tensor], bool], mistake: Callable[[Tensor], Tensor]
) -> None:
    far = torch.ones(3, 3, device="cuda")
    assert there(far)
    with pytest.raises(RuntimeError, match="Expected all tensors to be on the same device"):
        mistake(far)


@pytest.mark.usefixtures("there")
def test_a_cpu_generator_draws_for_the_cpu_alone() -> None:
    generator = torch.Generator().manual_seed(0)
    chances = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError, match="for generator"):
        torch.multinomial(chances, 1, generator=generator)
    with pytest.raises(RuntimeError, match="for generator"):
        torch.rand(3, device="cuda", generator=generator)
    assert torch.multinomial(chances.cpu(), 1, generator=generator).shape == (1,)


@pytest.mark.usefixtures("there")
def test_what_a_gpu_allows_is_allowed() -> None:
    far = torch.arange(4.0, device="cuda")
    assert far.device == torch.device("cuda", 0)
    assert far.is_cuda
    assert (far * torch.tensor(2.0)).tolist() == [0, 2, 4, 6]
    assert far[torch.tensor([3, 1])].tolist() == [3, 1]
    assert float(far.sum()) == 6
    near = torch.zeros(4)
    near.copy_(far)
    assert near.tolist() == far.cpu().numpy().tolist()
    with pytest.raises(TypeError, match="cuda:0 device type tensor to numpy"):
        far.numpy()


def test_a_network_there_learns_the_same_and_comes_back(there: Callable[[Tensor], bool]) -> None:
    inputs = torch.randn(8, 3, 6, 6, generator=torch.Generator().manual_seed(0))

    def trained(device: str) -> nn.Module:
        torch.manual_seed(1)
        net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).to(device)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, fused=True)
        for _ in range(3):
            optimizer.zero_grad()
            net(inputs.to(device)).square().sum().backward()
            optimizer.step()
        return net

    here, far = trained("cpu"), trained("cuda")
    assert all(there(each) for each in (*far.parameters(), *far.buffers()))
    with pytest.raises(RuntimeError, match="same device"):
        far(inputs)
    back = far.to("cpu")
    assert not any(there(each) for each in (*back.parameters(), *back.buffers()))
    for name, value in here.state_dict().items():
        assert torch.allclose(back.state_dict()[name], value, atol=1e-5), name
