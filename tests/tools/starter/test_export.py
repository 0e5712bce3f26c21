"""Targets of the text tower: concepts apart, and unknown words away from every picture."""

import torch
import torch.nn.functional as functional

from tools.starter.export import aim, quietest_direction


def test_unknown_words_are_aimed_at_what_pictures_lack() -> None:
    torch.manual_seed(0)
    lacking = functional.normalize(torch.randn(8), dim=0)
    pictures = torch.randn(200, 8) + 2
    pictures = functional.normalize(
        pictures - 0.99 * (pictures @ lacking)[:, None] * lacking, dim=1
    )

    found = quietest_direction(pictures)

    assert abs(float(found @ lacking)) > 0.99
    assert (pictures @ found).abs().max() < 0.1
    assert (pictures @ found).mean() <= 0


def test_targets_are_unit_vectors_that_differ_more_than_the_learned_directions() -> None:
    torch.manual_seed(0)
    shared = functional.normalize(torch.randn(16), dim=0)
    concepts = functional.normalize(torch.randn(9, 16), dim=1) + shared
    unknown = functional.normalize(torch.randn(16), dim=0)

    targets = aim(concepts, unknown)

    learned = functional.normalize(concepts[:-1], dim=1)
    torch.testing.assert_close(targets.norm(dim=1), torch.ones(9))
    torch.testing.assert_close(targets[-1], unknown)
    assert (targets[:-1] @ targets[:-1].T).mean() < (learned @ learned.T).mean()
