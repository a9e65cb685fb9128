"""Steps that are orthogonal, and momentum that is Nesterov's."""

import pytest
import torch
from torch import nn

from neither.training.optimizers import Muon, orthogonalize


@pytest.mark.parametrize("shape", [(1, 4, 4), (3, 8, 72), (2, 90, 7), (1, 1, 5)])
@pytest.mark.parametrize(("dtype", "low", "high"), [(torch.float32, 0.65, 1.25),
                                                    (torch.bfloat16, 0.6, 1.3)])  # fmt: skip
def test_singular_values_come_near_one_and_singular_vectors_stay(
    shape: tuple[int, ...], dtype: torch.dtype, low: float, high: float
) -> None:
    torch.manual_seed(0)
    left, _, right = torch.linalg.svd(torch.randn(shape), full_matrices=False)
    # From the largest to the smallest that five iterations lift, as in gradients.
    values = torch.logspace(0, -1.5, min(shape[1:]))
    result = orthogonalize((left * values @ right).to(dtype))
    assert result.dtype == dtype
    inner = left.mT @ result.float() @ right.mT
    diagonal = inner.diagonal(dim1=1, dim2=2)
    assert low < diagonal.min() <= diagonal.max() < high
    assert (inner - diagonal.diag_embed()).abs().max() < 0.05


def test_the_scale_of_a_gradient_does_not_matter() -> None:
    torch.manual_seed(0)
    matrices = torch.randn(2, 5, 9)
    torch.testing.assert_close(orthogonalize(1e4 * matrices), orthogonalize(matrices))
    assert not orthogonalize(torch.zeros(1, 3, 4)).any()


def steps_of(shapes: list[tuple[int, ...]], gradients: list[torch.Tensor]) -> list[torch.Tensor]:
    weights = [nn.Parameter(torch.zeros(shape)) for shape in shapes]
    for each, gradient in zip(weights, gradients, strict=True):
        each.grad = gradient.clone()
    Muon([{"params": weights}], lr=1.0, momentum=0.0).step()
    return [-each.detach() for each in weights]


def test_kernels_of_one_shape_are_as_if_alone() -> None:
    torch.manual_seed(0)
    shapes = [(4, 3, 3, 3), (4, 27), (8, 2, 1, 1), (4, 3, 3, 3)]
    gradients = [torch.randn(shape) for shape in shapes]
    together = steps_of(shapes, gradients)
    for shape, gradient, step in zip(shapes, gradients, together, strict=True):
        torch.testing.assert_close(steps_of([shape], [gradient])[0], step)
        expected = orthogonalize(gradient.flatten(1)[None])[0].view(shape)
        scale = max(1, shape[0] / gradient[0].numel()) ** 0.5
        torch.testing.assert_close(step, scale * expected)


def test_momentum_is_nesterovs_and_decay_is_apart_from_it() -> None:
    weights = nn.Parameter(torch.ones(2))
    group = {"params": [weights], "orthogonal": False, "weight_decay": 0.1}
    optimizer = Muon([group], lr=0.5, momentum=0.8)
    expected, momentum = torch.ones(2), torch.zeros(2)
    for gradient in (torch.tensor([1.0, -2.0]), torch.tensor([0.0, 3.0])):
        weights.grad = gradient.clone()
        optimizer.step()
        momentum = 0.8 * momentum + gradient
        expected = (1 - 0.5 * 0.1) * expected - 0.5 * (gradient + 0.8 * momentum)
        torch.testing.assert_close(weights.detach(), expected)
        assert torch.equal(weights.grad, gradient)


def test_what_has_no_gradient_stays() -> None:
    weights, other = nn.Parameter(torch.ones(2, 2)), nn.Parameter(torch.ones(2, 2))
    weights.grad = torch.ones(2, 2)
    Muon([{"params": [weights, other]}], lr=0.5, momentum=0.9).step()
    assert torch.equal(other.detach(), torch.ones(2, 2))
    assert not torch.equal(weights.detach(), torch.ones(2, 2))
