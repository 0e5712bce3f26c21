"""The served models as operators write them."""

import pytest

from legrad_engine.errors import InvalidOptionError, UnknownModelError
from service.settings import Settings
from service.settings.models import NamedModel, named_models


@pytest.mark.parametrize(
    ("text", "identity", "name", "pretrained", "spelling"),
    [
        ("starter", "starter", "starter", None, "starter"),
        ("shop=starter", "shop", "starter", None, "starter"),
        ("shop=ViT-B-16@/models/x.pt", "shop", "ViT-B-16", "/models/x.pt", "ViT-B-16@x.pt"),
        ("ViT-B-16@/a=b/x=y.pt", "vit-b-16-x-y", "ViT-B-16", "/a=b/x=y.pt", "ViT-B-16@x=y.pt"),
        (
            "Shop.v2_a-1= ViT-B-16/laion2b_s34b_b88k",
            "Shop.v2_a-1",
            "ViT-B-16",
            "laion2b_s34b_b88k",
            "ViT-B-16/laion2b_s34b_b88k",
        ),
        (
            "ViT-B-16/laion2b_s34b_b88k",
            "vit-b-16-laion2b_s34b_b88k",
            "ViT-B-16",
            "laion2b_s34b_b88k",
            "ViT-B-16/laion2b_s34b_b88k",
        ),
        ("a=hf-hub:org/repo", "a", "hf-hub:org/repo", None, "hf-hub:org/repo"),
        ("local-dir:/m/a=b", "a-b", "local-dir:/m/a=b", None, "local-dir:a=b"),
        ("b=timm:vit_x@/m/y.pt", "b", "timm:vit_x", "/m/y.pt", "timm:vit_x@y.pt"),
    ],
)
def test_an_entry_has_an_id_a_reference_and_a_spelling(
    text: str, identity: str, name: str, pretrained: str | None, spelling: str
) -> None:
    model = NamedModel.parse(text)
    assert (model.id, model.spelling) == (identity, spelling)
    assert (model.reference.name, model.reference.pretrained) == (name, pretrained)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("my shop=starter", "'my shop' before ="),
        ("größe=starter", "'größe' before ="),
        ("=starter", "'' before ="),
        ("-a=starter", "letter or digit at both ends"),
        ("a" * 129 + "=starter", "at most 128"),
        ("shop=", "does not say which weights"),
        ("shop=x.pt", "which architecture"),
        ("ViT-B-16", "laion2b_s34b_b88k"),
    ],
)
def test_a_senseless_entry_is_refused(text: str, said: str) -> None:
    with pytest.raises(UnknownModelError, match=said):
        NamedModel.parse(text)


def test_a_model_written_twice_is_served_once() -> None:
    assert len(Settings(models=("starter", "starter")).named_models) == 1


def test_two_models_with_one_id_are_refused_with_the_way_out() -> None:
    twins = ("ViT-B-16@/a/weights.pt", "ViT-B-16@/b/weights.pt")
    with pytest.raises(InvalidOptionError, match=r"same id.*first=ViT-B-16@weights\.pt"):
        _ = Settings(models=twins).named_models
    with pytest.raises(InvalidOptionError, match="same id"):
        named_models(("a=starter", "a=ViT-B-16@/a/x.pt"))
    named = named_models((f"one={twins[0]}", twins[1], "two=starter", "three=starter"))
    assert [model.id for model in named] == ["one", "vit-b-16-weights", "two", "three"]
