"""Batches of prepared pictures: every one is explained, or has a reason why not."""

import torch

from legrad_engine import Explainer
from service.bulk.batches import BatchExplainer, Explained
from service.bulk.questions import Question
from tests.support.pictures import picture


def test_numbers_that_are_not_finite_are_an_error_and_not_an_explanation(tiny_model: str) -> None:
    explainer = Explainer.load(tiny_model)
    batches = BatchExplainer(explainer, Question(tiny_model, ("a cat",)))
    prepared = [("one", explainer.prepare(picture(60, 40)))]
    assert isinstance(batches.explain(prepared)["one"], Explained)
    with torch.no_grad():
        explainer.model.get_parameter("visual.proj")[0, 0] = torch.inf
    told = batches.explain(prepared)["one"]
    assert isinstance(told, str)
    assert "not finite" in told
