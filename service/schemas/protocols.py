"""The HTTP contract of other servers' protocols: KServe V1, Open Inference, TorchServe."""

from typing import Annotated, Any, Literal

from pydantic import Field

from service.schemas.answers import ImageExplanation
from service.schemas.base import EXAMPLE_IMAGE, AnyImage, Contract, Request
from service.schemas.requests import FIELD_NAMES, ExplainBody


class ProtocolError(Contract):
    """An error in the form of KServe's protocols, extended by fields of our problem details."""

    error: str = Field(
        description="Cause of the error and how to resolve it.",
        examples=["There is no model 'nothing'."],
    )
    code: str = Field(
        description="Code of the kind of problem, for programs to branch on; `error` of our "
        "problem details.",
        examples=["unknown-model"],
    )
    field: str | None = Field(
        None, description="Field that caused the error, if it was a single one.", examples=["IMAGE"]
    )
    request_id: str = Field(
        description="Id of this request.", examples=["6f1c3f0a8b2e4c1d9a7e5b3c2d1f0e9a"]
    )


class ModelReadiness(Contract):
    """A model that is ready for requests."""

    name: str = Field(description="Id of the model.", examples=["starter"])
    ready: Literal[True] = Field(
        description="Always true; a model that is not ready is answered by an error.",
        examples=[True],
    )


class ModelNames(Contract):
    """The served models."""

    models: list[str] = Field(description="Ids of the models.", examples=[["starter"]])


class Instance(ExplainBody):
    """One image. Give its `prompts`, `targets`, or both."""

    image: AnyImage = Field(
        description='The image: `{"b64": ...}`, a data URL, plain base64 or `{"url": ...}`.',
        examples=[{"b64": EXAMPLE_IMAGE.partition(",")[2]}],
    )


class InstancesRequest(Request):
    """Images to explain, each with its own prompts and options."""

    instances: Annotated[list[Instance], Field(min_length=1, fail_fast=True)] = Field(
        description="The images. Those with equal prompts and options are computed together.",
        examples=[[{"image": {"b64": EXAMPLE_IMAGE.partition(",")[2]}, "prompts": ["a cat"]}]],
    )


class Explanations(Contract):
    """The response of KServe's `:explain`."""

    explanations: list[ImageExplanation] = Field(
        description="One entry for each instance, in order.", examples=[[]]
    )


class ServerMetadata(Contract):
    """Name, version and protocol extensions of this server."""

    name: str = Field(description="Name of the server.", examples=["legrad"])
    version: str = Field(description="Version of the server.", examples=["0.1.0"])
    extensions: list[str] = Field(
        description="Supported extensions of the protocol.", examples=[["binary_tensor_data"]]
    )


class ServerLive(Contract):
    """Liveness: the process answers."""

    live: Literal[True] = Field(description="Always true.", examples=[True])


class ServerReady(Contract):
    """Readiness: the server can answer inference requests."""

    ready: Literal[True] = Field(
        description="Always true; a server that is not ready answers by an error.", examples=[True]
    )


class TensorMetadata(Contract):
    """An input or output tensor of a model."""

    name: str = Field(description="Name of the tensor.", examples=["IMAGE"])
    datatype: str = Field(description="Type of its elements.", examples=["BYTES"])
    shape: list[int] = Field(
        description="Shape of the tensor; -1 stands for any size.", examples=[[-1]]
    )


class ModelMetadata(Contract):
    """Input and output tensors of a model."""

    name: str = Field(description="Id of the model.", examples=["starter"])
    versions: list[str] = Field(description="Versions of the model.", examples=[["1"]])
    platform: str = Field(description="Framework the model runs on.", examples=["pytorch"])
    inputs: list[TensorMetadata] = Field(
        description="Input tensors.",
        examples=[[{"name": "IMAGE", "datatype": "BYTES", "shape": [-1]}]],
    )
    outputs: list[TensorMetadata] = Field(
        description="Output tensors; heatmaps are [images, texts, rows, columns].",
        examples=[[{"name": "HEATMAP", "datatype": "FP32", "shape": [-1, -1, -1, -1]}]],
    )


Parameters = dict[str, bool | int | float | str]


class InputTensor(Request):
    """An input tensor."""

    name: str = Field(description="`IMAGE` or `TEXT`.", examples=["TEXT"])
    shape: list[int] = Field(
        description="Shape of the tensor: one dimension, the number of elements.",
        max_length=100,
        examples=[[2]],
    )
    datatype: str = Field(description="`BYTES`.", examples=["BYTES"])
    parameters: Parameters | None = Field(
        None,
        description="`binary_data_size`: number of bytes after the JSON that hold the tensor. Each "
        "element is preceded by its length as four little-endian bytes. Parameters of shared "
        "memory are refused, others ignored.",
        examples=[{"binary_data_size": 14}],
    )
    data: list[str] | None = Field(
        None,
        description="The elements, unless they follow the JSON as bytes: texts, and images in "
        "base64 or as data URLs.",
        examples=[["a cat", "a dog"]],
    )


OutputName = Literal["HEATMAP", "SIMILARITY", "PROBABILITY", "PRESENCE"]


class RequestedOutput(Request):
    """A requested output tensor."""

    name: OutputName = Field(description="Name of the tensor.", examples=["HEATMAP"])
    parameters: Parameters | None = Field(
        None,
        description="`binary_data`: whether the tensor follows the JSON as bytes. Parameters of "
        "shared memory and `classification` are refused, others ignored.",
        examples=[{"binary_data": True}],
    )


class InferenceRequest(Request):
    """An inference request of the Open Inference Protocol: images and texts as tensors."""

    id: str | None = Field(
        None, max_length=256, description="Returned in the response.", examples=["42"]
    )
    model_name: str | None = Field(
        None,
        max_length=256,
        description="The model of the path, which names it. KServe's client sends it.",
        examples=["starter"],
    )
    parameters: Parameters | None = Field(
        None,
        description="`ExplainOptions` with scalar values; `layers` may also be block indices "
        "separated by commas (`0,-1`), `templates` and `negatives` the name of a set. With "
        "`binary_data_output`, all tensors follow the JSON as bytes.",
        examples=[{"layers": 2, "fit": "pad"}],
    )
    inputs: list[InputTensor] = Field(
        max_length=100,
        description="`IMAGE`, the images, and `TEXT`, the prompts for each of them.",
        examples=[
            [
                {
                    "name": "IMAGE",
                    "shape": [1],
                    "datatype": "BYTES",
                    "data": [EXAMPLE_IMAGE.partition(",")[2]],
                },
                {"name": "TEXT", "shape": [1], "datatype": "BYTES", "data": ["a cat"]},
            ]
        ],
    )
    outputs: list[RequestedOutput] | None = Field(
        None,
        max_length=100,
        description="The requested output tensors; `HEATMAP`, `SIMILARITY` and `PROBABILITY` if "
        "null or empty.",
        examples=[[{"name": "HEATMAP"}]],
    )


class OutputTensor(Contract):
    """An output tensor."""

    name: OutputName = Field(description="Name of the tensor.", examples=["HEATMAP"])
    datatype: Literal["FP32"] = Field(description="Type of its elements.", examples=["FP32"])
    shape: list[int] = Field(
        description="[images, texts, rows, columns] of heatmaps, [images, texts] of the others; "
        "with `heads` of `each`, heads in place of texts.",
        examples=[[1, 1, 2, 2]],
    )
    parameters: Parameters | None = Field(
        None,
        description="`binary_data_size`: number of bytes after the JSON that hold the tensor.",
        examples=[{"binary_data_size": 16}],
    )
    data: list[float] | None = Field(
        None,
        description="The elements in row-major order, unless they follow the JSON as bytes.",
        examples=[[0.0, 0.00042, 0.00011, 0.0]],
    )


class MethodParameters(Contract):
    """The explanation method that made the heatmaps of an inference response."""

    method: str = Field(description="Its name.", examples=["legrad"])
    targeted: bool = Field(
        description="Whether a heatmap depends on its text; if not, those of a picture are equal.",
        examples=[True],
    )


class InferenceResponse(Contract):
    """Explanations as tensors."""

    model_name: str = Field(description="Id of the model that answered.", examples=["starter"])
    model_version: str = Field(description="Version of the model.", examples=["1"])
    id: str = Field(
        description="The `id` of the request, or else its `X-Request-ID`.", examples=["42"]
    )
    parameters: MethodParameters = Field(
        description="The method that made the heatmaps.",
        examples=[{"method": "legrad", "targeted": True}],
    )
    outputs: list[OutputTensor] = Field(
        description="The output tensors. Heatmaps are raw values of the patch grid, neither "
        "upsampled nor normalised.",
        examples=[
            [{"name": "SIMILARITY", "datatype": "FP32", "shape": [1, 1], "data": [0.31]}],
        ],
    )


class Ping(Contract):
    """The response of TorchServe's `/ping`."""

    status: Literal["Healthy"] = Field(description="Always `Healthy`.", examples=["Healthy"])


class TorchServeError(Contract):
    """An error in the form of TorchServe."""

    code: int = Field(description="HTTP status.", examples=[404])
    type: str = Field(
        description="Code of the kind of problem, for programs to branch on; `error` of our "
        "problem details.",
        examples=["unknown-model"],
    )
    message: str = Field(
        description="Cause of the error and how to resolve it.",
        examples=["There is no model 'nothing'."],
    )


# All field names in the requests of each protocol.
INSTANCES_NAMES = FIELD_NAMES | {"instances"}
INFERENCE_NAMES = frozenset(
    name
    for model in (InferenceRequest, InputTensor, RequestedOutput)
    for name in model.model_fields
)


def errors_of(model: type[Contract]) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a protocol, for the declaration of its routes."""
    return {
        "4XX": {"description": "The request is at fault.", "model": model},
        "5XX": {"description": "The server is at fault.", "model": model},
    }
