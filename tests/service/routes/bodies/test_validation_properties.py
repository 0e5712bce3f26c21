"""No JSON body causes a server error."""

import json
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.pictures import data_url, encoded, request_of
from tests.support.running_app import RunningApp

NUMBERS = st.integers() | st.floats() | st.sampled_from([10**400, -(10**400), -1, 0, 1, 64])
SCALARS = st.none() | st.booleans() | NUMBERS | st.text(max_size=20)
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=8,
)
LAYERS = st.integers(-5, 5) | st.lists(st.integers(-5, 5), max_size=4) | st.just("all") | VALUES
URLS = st.fixed_dictionaries({"url": st.text(max_size=30) | VALUES})
NEGATIVES = st.one_of(
    st.just("siglip"),
    VALUES,
    st.fixed_dictionaries(
        {"prompts": st.lists(st.text(min_size=1, max_size=9), max_size=3) | VALUES},
        optional={
            "mode": st.sampled_from(["subtract", "mask"]) | VALUES,
            "threshold": st.floats(0, 1) | VALUES,
            "weight": st.floats(0, 1000) | VALUES,
        },
    ),
)
OPTIONS = st.fixed_dictionaries(
    {},
    optional={
        "layers": LAYERS,
        "score": st.sampled_from(["mean", "cls"]) | VALUES,
        "size": st.sampled_from([16, 32, 48, 64, 65, 0]) | VALUES,
        "fit": st.sampled_from(["squash", "pad", "native"]) | VALUES,
        "negatives": NEGATIVES,
        "templates": st.just("simple") | st.lists(st.text(max_size=9), max_size=3) | VALUES,
    },
)
OUTPUT = st.fixed_dictionaries(
    {},
    optional={
        "heatmap": st.sampled_from(["png", "png16", "npy", "none"]) | VALUES,
        "overlay": st.booleans() | VALUES,
        "alpha": st.floats(0, 1) | VALUES,
        "normalize": st.sampled_from(["each", "shared", "none"]) | VALUES,
        "regions_threshold": st.floats(0, 1) | VALUES,
        "max_side": st.sampled_from([16, 17, 2048, 2049]) | VALUES,
    },
)
TEXTS = st.text(max_size=30) | VALUES
IMAGES = st.just(data_url(encoded())) | VALUES
SIMPLE_TARGETS = st.one_of(
    st.fixed_dictionaries({"type": st.just("text")}, optional={"text": TEXTS, "texts": VALUES}),
    st.fixed_dictionaries({"type": st.just("text"), "text": st.sampled_from(["a cat", "a dog"])}),
    st.fixed_dictionaries({"type": st.just("image"), "image": IMAGES}),
    st.fixed_dictionaries(
        {
            "type": st.just("embedding"),
            "embedding": st.lists(NUMBERS, min_size=32, max_size=32)
            | st.fixed_dictionaries({"b64": st.just("AACAPw==" * 3) | VALUES})
            | VALUES,
        }
    ),
    st.fixed_dictionaries(
        {"type": st.just("class")}, optional={"index": NUMBERS | VALUES, "label": TEXTS}
    ),
    VALUES,
)
TARGETS = st.one_of(
    SIMPLE_TARGETS,
    st.fixed_dictionaries(
        {"type": st.just("contrast"), "target": SIMPLE_TARGETS, "against": SIMPLE_TARGETS}
    ),
    st.fixed_dictionaries(
        {
            "type": st.just("residual"),
            "target": SIMPLE_TARGETS,
            "distractors": st.lists(SIMPLE_TARGETS, max_size=3) | VALUES,
        },
        optional={"atoms": st.integers(-1, 3) | VALUES},
    ),
)
CHANGES = st.fixed_dictionaries(
    {},
    optional={
        "image": st.just(data_url(encoded())) | URLS | VALUES,
        "images": VALUES,
        "prompts": st.lists(st.text(max_size=30), max_size=3) | VALUES,
        "targets": st.lists(TARGETS, min_size=1, max_size=3) | VALUES,
        "model": VALUES,
        "options": OPTIONS | VALUES,
        "output": OUTPUT | VALUES,
    },
)


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(changes=CHANGES)
def test_every_json_body_is_answered_or_refused(
    running: RunningApp, changes: dict[str, Any]
) -> None:
    response = running.client.post(
        "/explain",
        content=json.dumps(request_of(**changes)),
        headers={"content-type": "application/json"},
    )
    assert response.status_code in (200, 400, 403, 404, 413, 422), response.text
    if response.status_code != 200:
        assert response.headers["content-type"] == "application/problem+json"
        assert response.json()["detail"]
