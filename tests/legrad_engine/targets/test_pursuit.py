"""What orthogonal matching pursuit leaves of a target."""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from legrad_engine.targets.pursuit import residual


def unit_rows(count: int, size: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randn(count, size, generator=generator, dtype=torch.float64), dim=-1)


problems = st.tuples(st.integers(1, 8), st.integers(2, 12), st.integers(0, 10_000))


def slow_residual(target: Tensor, distractors: Tensor, atoms: int) -> tuple[Tensor, list[int]]:
    """The definition, with a least-squares fit from scratch after each pick."""
    left, picked = target, list[int]()
    for _ in range(min(atoms, len(distractors))):
        correlations = (distractors @ left).abs()
        correlations[picked] = -1
        if correlations.max() < 1e-9:
            break
        picked.append(int(correlations.argmax()))
        chosen = distractors[picked]
        left = target - chosen.T @ (torch.linalg.pinv(chosen.T) @ target)
    return left, picked


@given(problems, st.integers(1, 8))
def test_it_is_the_greedy_least_squares_residual(problem: tuple[int, int, int], atoms: int) -> None:
    count, size, seed = problem
    target, *rest = unit_rows(count + 1, size, seed)
    distractors = torch.stack(rest)
    expected, picked = slow_residual(target, distractors, atoms)
    found = residual(target, distractors, atoms)
    assert torch.allclose(found, expected, atol=1e-7)
    assert (distractors[picked] @ found).abs().max() < 1e-9


@given(problems)
def test_what_is_left_never_grows_with_more_atoms(problem: tuple[int, int, int]) -> None:
    count, size, seed = problem
    target, *rest = unit_rows(count + 1, size, seed)
    distractors = torch.stack(rest)
    norms = [float(residual(target, distractors, atoms).norm()) for atoms in range(1, count + 1)]
    assert norms[0] <= 1
    assert all(later <= earlier + 1e-12 for earlier, later in pairwise(norms))
    assert residual(target, distractors).norm() == pytest.approx(norms[-1])


@given(problems, st.randoms(use_true_random=False))
def test_repeats_and_order_change_nothing(problem: tuple[int, int, int], random: object) -> None:
    count, size, seed = problem
    target, *rest = unit_rows(count + 1, size, seed)
    expected = residual(target, torch.stack(rest))
    shuffled = rest * 2
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert torch.allclose(residual(target, torch.stack(shuffled)), expected, atol=1e-7)


def test_a_repeat_does_not_use_up_an_atom() -> None:
    target, first, second = unit_rows(3, 8, 1)
    expected = residual(target, torch.stack([first, second]), 2)
    found = residual(target, torch.stack([first, first, first, second, second]), 2)
    assert torch.allclose(found, expected, atol=1e-12)


def test_a_nearly_equal_distractor_is_a_repeat_at_the_precision_that_is_given() -> None:
    target, distractor, noise = unit_rows(3, 8, 2)
    twice = torch.stack([distractor, F.normalize(distractor + 1e-8 * noise, dim=0)])
    alone = residual(target, twice[:1])
    assert torch.allclose(residual(target, twice, rounding=1e-6), alone, atol=1e-6)
    assert not torch.allclose(residual(target, twice), alone, atol=1e-6)


def test_the_most_correlated_distractor_goes_first_whatever_its_sign() -> None:
    target = torch.tensor([0.6, 0.8, 0.0], dtype=torch.float64)
    distractors = torch.tensor([[1.0, 0, 0], [0, -1.0, 0]], dtype=torch.float64)
    assert torch.allclose(residual(target, distractors, 1), torch.tensor([0.6, 0, 0]).double())


def test_a_combination_of_its_distractors_leaves_nothing() -> None:
    distractors = unit_rows(3, 8, 3)
    target = F.normalize(torch.tensor([1.0, -2.0, 0.5]).double() @ distractors, dim=0)
    assert residual(target, distractors).norm() < 1e-12


def test_orthogonal_distractors_take_nothing() -> None:
    target, *distractors = torch.eye(4, dtype=torch.float64)
    assert torch.equal(residual(target, torch.stack(distractors)), target)
