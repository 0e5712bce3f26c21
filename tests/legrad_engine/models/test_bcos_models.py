"""B-cos models by name and checkpoint: loaded as the package runs them, or refused."""

import importlib.util
from importlib.machinery import ModuleSpec
from pathlib import Path

import pytest
import torch
import torchvision.transforms.functional as vision

from legrad_engine import Explainer
from legrad_engine.errors import ModelLoadError, UnknownModelError, UnsupportedModelError
from legrad_engine.families.bcos_vit import BcosViT, with_inverse
from legrad_engine.models import ModelReference
from legrad_engine.models.size import weights_bytes
from tests.support.bcos_models import TINY, package_model, write_bcos
from tests.support.pictures import picture

NAME = "bcos:simple_vit_ti_patch16_224"


@pytest.mark.parametrize("missing", ["bcos", "einops"])
def test_a_missing_package_is_refused_with_the_extra(
    missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    find = importlib.util.find_spec

    def find_spec(name: str, package: str | None = None) -> ModuleSpec | None:
        return None if name == missing else find(name, package)

    monkeypatch.setattr(importlib.util, "find_spec", find_spec)
    with pytest.raises(ModelLoadError, match=rf"{missing}.* 'legrad-service\[bcos\]'"):
        Explainer.load(f"{NAME}@{tmp_path / 'weights.pth'}")


def test_the_name_is_safe_in_urls_and_tells_no_folder() -> None:
    reference = ModelReference.parse(f"{NAME}@/a/b/Tuned.pth")
    assert reference == ModelReference.of(NAME, "/a/b/Tuned.pth")
    assert (reference.title, reference.pretrained) == (NAME, "/a/b/Tuned.pth")
    assert reference.id == "bcos-simple_vit_ti_patch16_224-tuned"


@pytest.mark.parametrize("text", ["bcos:", "bcos:@a.pth", f"{NAME}@"])
def test_half_a_reference_is_refused(text: str) -> None:
    with pytest.raises(UnknownModelError, match="bcos:NAME@PATH"):
        ModelReference.parse(text)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of a model with three classes, as the package saves it."""
    pytest.importorskip("bcos")
    pytest.importorskip("einops")
    folder = tmp_path_factory.mktemp("bcos")
    write_bcos(folder)
    return folder / f"{TINY}.pth"


def test_logits_features_and_probabilities_are_the_packages(path: Path) -> None:
    explainer = Explainer.load(f"{NAME}@{path}", dtype="float64")
    model = package_model().double()
    pixels = torch.rand(2, 3, 64, 96, dtype=torch.float64)
    with torch.no_grad():
        logits = model[0](torch.cat([pixels, 1 - pixels], 1))
        # The package's bias is that of 1,000 classes, which these weights do not have.
        logits -= torch.tensor(2.0, dtype=torch.float64).log()
        torch.testing.assert_close(explainer.model(pixels), logits)
        features = explainer.model.encode_image(pixels)  # type: ignore[operator]
        assert explainer.classifier is not None
        found = explainer.classifier.probabilities(features)
        torch.testing.assert_close(found, logits.sigmoid())
        tower = explainer.tower
        tokens = tower.embed(pixels)
        for index in range(tower.depth):
            tokens = tower.forward_block(tokens, index)
        head = tower.served_head()
        torch.testing.assert_close(head.features(head.state(tokens)), features)
        unit = explainer.classifier.vectors([2, 0])
        weights = model[0].linear_head.linear.linear.weight[[2, 0]]
        torch.testing.assert_close(unit, torch.nn.functional.normalize(weights, dim=-1))
    assert explainer.classifier.labels is None


def test_pictures_are_prepared_as_by_the_packages_own_transform(path: Path) -> None:
    from bcos.data.transforms import AddInverse

    explainer = Explainer.load(f"{NAME}@{path}")
    image = picture(224, 224)
    given = with_inverse(explainer.input_of([explainer.prepare(image)]))
    torch.testing.assert_close(given[0], AddInverse()(vision.to_tensor(image)))


def test_weights_of_1000_classes_have_the_packages_bias_and_imagenets_names(
    tmp_path: Path, path: Path
) -> None:
    del path
    explainer = Explainer.load(write_bcos(tmp_path, TINY, 1000))
    visual = explainer.model.visual
    assert isinstance(visual, BcosViT)
    assert visual.logit_bias == pytest.approx(package_model(TINY, 1000)[1].logit_bias)
    assert explainer.classifier is not None
    assert explainer.classifier.index_of("tench") == 0
    reference = ModelReference.parse(f"{NAME}@{tmp_path / TINY}.pth")
    assert weights_bytes(reference) == explainer.nbytes


@pytest.mark.parametrize(
    ("name", "error", "message"),
    [
        (NAME, ModelLoadError, r"download https://\S+\.pth and give its path"),
        (f"{NAME}@/no/such.pth", ModelLoadError, "There is no checkpoint at"),
        ("bcos:resnet50@{path}", UnsupportedModelError, "convolutional network"),
        ("bcos:standard_vitc_s_patch1_14@{path}", UnsupportedModelError, "bcos:vitc_s_patch1_14"),
        ("bcos:vit_huge@{path}", UnknownModelError, "simple_vit_ti_patch16_224"),
        ("bcos:list_available@{path}", UnknownModelError, "no architecture"),
        ("bcos:simple_vit_s_patch16_224@{path}", ModelLoadError, "of another shape"),
    ],
)
def test_what_cannot_be_loaded_is_refused_with_the_reason(
    name: str, error: type[Exception], message: str, path: Path
) -> None:
    with pytest.raises(error, match=message):
        Explainer.load(name.format(path=path))


def test_a_model_of_linear_layers_is_no_bcos_model(path: Path) -> None:
    del path
    from bcos.models import pretrained

    with pytest.raises(UnsupportedModelError, match="B-cos unit"):
        BcosViT(pretrained.standard_simple_vit_ti_patch16_224(pretrained=False))
