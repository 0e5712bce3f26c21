"""Targets as a caller writes them, and checked answers about them."""

from typing import Any

import numpy as np

from legrad_engine import Explainer
from tests.support.answers import check_against_contract
from tests.support.pictures import data_url, encoded, picture, request_of
from tests.support.protocols import RAW_MAPS
from tests.support.running_app import RunningApp

SIZE = 32
LABELS = ("tench", "tabby", "beagle")
Json = dict[str, Any]
CAT: Json = {"type": "text", "text": "a cat"}
DOG: Json = {"type": "text", "text": "a dog"}
OTHER = encoded(picture(seed=9), "JPEG")
IMAGE: Json = {"type": "image", "image": data_url(OTHER)}


def embedding(seed: int = 0) -> list[float]:
    values: list[float] = np.random.default_rng(seed).normal(size=SIZE).astype("<f4").tolist()
    return values


def nested(target: Json) -> Json:
    return {"type": "residual", "target": CAT, "distractors": [DOG, target]}


def engine_of(running: RunningApp) -> Explainer:
    explainer: Explainer | None = running.model.explainer
    assert explainer is not None
    return explainer


def ask(running: RunningApp, *targets: Json, **changes: Any) -> list[Json]:
    body = request_of(
        targets=list(targets) or None, output=RAW_MAPS, **({"prompts": None} | changes)
    )
    response = running.explain(body)
    assert response.status_code == 200, response.text
    answer = response.json()
    check_against_contract(answer, "ExplainResponse")
    found: list[Json] = answer["images"][0]["targets"]
    assert len(found) == len(targets) + len(changes.get("prompts") or [])
    return found
