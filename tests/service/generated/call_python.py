"""Call every operation of a server by the package ``generated_client``.

Arguments: the folder of the package, the server's address, a key, a model, the file of a picture.
Prints a JSON object: the status, the type of the parsed answer, and what was checked in it, for
each operation.
"""

import base64
import importlib
import io
import json
import pkgutil
import sys
from pathlib import Path
from typing import Any

folder, address, key, model, picture = sys.argv[1:]
sys.path.insert(0, folder)
package = importlib.import_module("generated_client")
models: Any = importlib.import_module("generated_client.models")
types: Any = importlib.import_module("generated_client.types")
api = importlib.import_module("generated_client.api")
client = package.AuthenticatedClient(base_url=address, token=key, raise_on_unexpected_status=True)
operations: dict[str, Any] = {
    found.name.rpartition(".")[2]: importlib.import_module(found.name)
    for found in pkgutil.walk_packages(api.__path__, "generated_client.api.")
    if not found.ispkg
}
answers: dict[str, Any] = {}


def file() -> Any:
    return types.File(io.BytesIO(Path(picture).read_bytes()), "picture.png", "image/png")


def call(operation: str, *arguments: Any, **named: Any) -> Any:
    response = operations[operation].sync_detailed(*arguments, client=client, **named)
    parsed = response.parsed
    answers.setdefault(operation, []).append([response.status_code, type(parsed).__name__])
    return parsed


def main() -> None:
    """Call every operation and print the answers."""
    encoded = base64.b64encode(Path(picture).read_bytes()).decode()
    text = models.TextTarget("text", text="a dog")
    options = models.ExplainOptions(layers=1, negatives=models.NegativePrompts(["a photo"]))
    output = models.OutputOptions(
        heatmap=models.OutputOptionsHeatmap("npy"),
        format_=models.OutputOptionsFormat("webp"),
        quality=70,
    )
    request = models.ExplainRequest(
        prompts=["a cat"], targets=[text], options=options, output=output, image=encoded
    )
    by_json = call("explain", body=request, x_request_timeout_ms=20_000)
    several = models.ExplainRequest(images=[models.EncodedImage(encoded)] * 2, prompts=["a cat"])
    assert len(call("explain", body=several).images) == 2
    form = models.ExplainFilesBody(
        image=[file()], prompts=["a cat"], targets=[text], options=options, output=output
    )
    by_form = call("explain", body=form)
    assert by_form.images[0].targets == by_json.images[0].targets
    assert [each.target for each in by_form.images[0].targets] == ["a cat", "a dog"]
    call("explain", body=models.ExplainRequest(image="nothing"))
    assert call("explain_progress", by_json.request_id).stage == "unknown"

    assert call("list_models").models[0].id == model
    call("describe_model", model)
    call("model_ready", model)
    assert call("list_classes", model, search="cat", limit=5).classes == []
    call("live")
    call("ready")
    assert "legrad_requests_total" in call("metrics")

    assert call("kserve_v1_list_models").models == [model]
    call("kserve_v1_model_ready", model)
    instance = models.Instance(models.EncodedImage(encoded), prompts=["a cat"], options=options)
    call("kserve_v1_explain", model, body=models.InstancesRequest([instance]))

    protocol = "open_inference_protocol_"
    call(f"{protocol}describe_server")
    call(f"{protocol}live")
    call(f"{protocol}ready")
    image = models.InputTensor("IMAGE", [1], "BYTES", data=[encoded])
    words = models.InputTensor("TEXT", [2], "BYTES", data=["a cat", "a dog"])
    inference = models.InferenceRequest([image, words])
    for version, path in (("", (model,)), ("_version", (model, "1"))):
        call(f"{protocol}describe_model{version}", *path)
        call(f"{protocol}model_ready{version}", *path)
        inferred = call(f"{protocol}infer{version}", *path, body=inference)
        assert [each.name for each in inferred.outputs] == ["HEATMAP", "SIMILARITY", "PROBABILITY"]

    call("torchserve_ping")
    part = models.TorchserveExplainFilesBody(file(), prompts=["a cat"], options=options)
    for operation, path in (
        ("torchserve_explain", (model,)),
        ("torchserve_explain_put", (model,)),
        ("torchserve_explain_version", (model, "1.0")),
        ("torchserve_explain_version_put", (model, "1.0")),
    ):
        by_query = call(operation, *path, body=file(), prompts=["a cat"], options='{"layers": 1}')
        assert len(by_query.targets) == 1
    assert len(call("torchserve_explain", model, body=part, prompts=["a dog"]).targets) == 2

    assert call("unload_model", model, wait_seconds=30.0).state == "unloaded"
    assert call("load_model", model, wait_seconds=60.0).state == "ready"
    json.dump(answers, sys.stdout)


main()
