"""Names that the schema admits and YAML may take for a number, a truth value or nothing."""

from typing import Any

import pytest

from tests.support.charts import VALUE_SETS, only, rendered

WORD = "a1b"


def with_word(word: str, *, kserve: bool) -> dict[str, Any]:
    """Values that have a word wherever the schema takes any name."""
    secret = {"secretName": word, "key": word}
    values: dict[str, Any] = {
        "image": {"pullSecrets": [word]},
        "serviceAccountName": word,
        "priorityClassName": word,
        "gpu": {"enabled": True, "runtimeClassName": word},
        "keys": {"secretName": word},
        "autoscaling": {"kind": "keda", "keda": {"authentication": word}},
        "networkPolicy": {"callerNamespaces": [word], "monitoringNamespaces": [word]},
        "monitoring": {
            "serviceMonitor": {"enabled": True, "keySecret": {"name": word, "key": word}},
            "rules": {"enabled": True},
            "alertmanager": {
                "enabled": True,
                "webhook": secret,
                "slack": secret | {"channel": word},
            },
        },
    }
    if kserve:
        service = {"name": word, "storageUri": f"s3://{word}/{word}"}
        return values | {"kserve": {"enabled": True, "services": [service]}}
    return values | {
        "weights": {"create": True, "storageClassName": word},
        "ingress": {
            "enabled": True,
            "className": word,
            "host": word,
            "tlsSecretName": word,
        },
    }


def _replaced(value: Any, word: str) -> Any:
    if isinstance(value, dict):
        return {_replaced(key, word): _replaced(each, word) for key, each in value.items()}
    if isinstance(value, list):
        return [_replaced(each, word) for each in value]
    return value.replace(WORD, word) if isinstance(value, str) else value


# Names of InferenceServices begin with a letter.
@pytest.mark.parametrize(
    ("word", "kserve"),
    [
        *((word, kserve) for word in ("true", "on", "null") for kserve in (False, True)),
        ("123", False),
    ],
)
def test_names_that_yaml_takes_for_something_else_stay_texts(word: str, kserve: bool) -> None:
    expected = rendered(with_word(WORD, kserve=kserve), name="prod")
    assert rendered(with_word(word, kserve=kserve), name="prod") == _replaced(expected, word)


@pytest.mark.parametrize("word", ["true", "on", "null"])
@pytest.mark.parametrize("chosen", VALUE_SETS)
def test_a_name_of_the_release_that_yaml_takes_for_something_else_stays_a_text(
    chosen: str, word: str
) -> None:
    values = VALUE_SETS[chosen]
    expected = rendered(values | {"fullnameOverride": WORD}, name=WORD)
    found = rendered(values | {"fullnameOverride": word}, name=word)
    assert found == _replaced(expected, word)


def test_names_of_secrets_and_claims_that_yaml_takes_for_numbers_stay_texts() -> None:
    def volumes(values: dict[str, Any], name: str) -> dict[str, Any]:
        pod = only(rendered(values), "Deployment", name)["spec"]["template"]["spec"]
        return {each["name"]: each for each in pod["volumes"]}

    secret = {"balancer": {"enabled": True, "tlsSecretName": "123"}}
    assert volumes(secret, "legrad-balancer")["tls"]["secret"]["secretName"] == "123"
    claim = {"weights": {"claimName": "123"}}
    found = volumes(claim, "legrad")["weights"]["persistentVolumeClaim"]
    assert found["claimName"] == "123"


def test_sizes_without_a_unit_stay_texts() -> None:
    made = only(rendered({"weights": {"create": True, "size": "500"}}), "PersistentVolumeClaim")
    assert made["spec"]["resources"]["requests"]["storage"] == "500"
    pod = only(rendered({"weights": {"size": "500"}}), "Deployment")["spec"]["template"]["spec"]
    sizes = [each["emptyDir"]["sizeLimit"] for each in pod["volumes"] if "emptyDir" in each]
    assert sizes[0] == "500"
