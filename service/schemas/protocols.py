"""The HTTP contract of other servers' protocols: KServe V1, Open Inference, TorchServe."""

from typing import Annotated, Any, Literal

from pydantic import Field

from service.schemas.answers import ImageExplanation
from service.schemas.base import EXAMPLE_IMAGE, AnyImage, Contract, Request
from service.schemas.requests import FIELD_NAMES, ExplainBody


class ProtocolError(Contract):
    """An error of KServe's protocols, with what our own problem details say beside it."""

    error: str = Field(
        description="What happened and what to do.", examples=["There is no model 'nothing'."]
    )
    code: str = Field(
        description="Slug of the kind, to branch on; `error` of our problem details.",
        examples=["unknown-model"],
    )
    field: str | None = Field(
        None, description="The field to blame, if one is.", examples=["IMAGE"]
    )
    request_id: str = Field(
        description="Id of this request.", examples=["6f1c3f0a8b2e4c1d9a7e5b3c2d1f0e9a"]
    )


class ModelReadiness(Contract):
    """A model that can answer."""

    name: str = Field(description="Id of the model.", examples=["starter"])
    ready: Literal[True] = Field(
        description="Always true: a model that is not ready is an error.", examples=[True]
    )


class ModelNames(Contract):
    """The served models."""

    models: list[str] = Field(description="Their ids.", examples=[["starter"]])


class Instance(ExplainBody):
    """One picture, and what to look for in it."""

    image: AnyImage = Field(
        description='The picture: `{"b64": ...}`, a data URL, plain base64 or `{"url": ...}`.',
        examples=[{"b64": EXAMPLE_IMAGE.partition(",")[2]}],
    )


class InstancesRequest(Request):
    """Pictures to explain, each with its own prompts and options."""

    instances: Annotated[list[Instance], Field(min_length=1, fail_fast=True)] = Field(
        description="The pictures. Those that ask the same are computed together.",
        examples=[[{"image": {"b64": EXAMPLE_IMAGE.partition(",")[2]}, "prompts": ["a cat"]}]],
    )


class Explanations(Contract):
    """The answer to KServe's `:explain`."""

    explanations: list[ImageExplanation] = Field(
        description="One entry for each instance, in order.", examples=[[]]
    )


class ServerMetadata(Contract):
    """What this server is."""

    name: str = Field(description="Name of the server.", examples=["legrad"])
    version: str = Field(description="Its version.", examples=["0.1.0"])
    extensions: list[str] = Field(
        description="Extensions of the protocol that it speaks.", examples=[["binary_tensor_data"]]
    )


class ServerLive(Contract):
    """The process answers."""

    live: Literal[True] = Field(description="Always true.", examples=[True])


class ServerReady(Contract):
    """The server can answer."""

    ready: Literal[True] = Field(
        description="Always true: a server that is not ready is an error.", examples=[True]
    )


class TensorMetadata(Contract):
    """A tensor that a model takes or gives."""

    name: str = Field(description="Name of the tensor.", examples=["IMAGE"])
    datatype: str = Field(description="Type of its elements.", examples=["BYTES"])
    shape: list[int] = Field(description="Its shape; -1 is any size.", examples=[[-1]])


class ModelMetadata(Contract):
    """What a model takes and gives."""

    name: str = Field(description="Id of the model.", examples=["starter"])
    versions: list[str] = Field(description="Its versions.", examples=[["1"]])
    platform: str = Field(description="What it runs on.", examples=["pytorch"])
    inputs: list[TensorMetadata] = Field(
        description="Tensors that it takes.",
        examples=[[{"name": "IMAGE", "datatype": "BYTES", "shape": [-1]}]],
    )
    outputs: list[TensorMetadata] = Field(
        description="Tensors that it gives: maps are [images, texts, rows, columns].",
        examples=[[{"name": "HEATMAP", "datatype": "FP32", "shape": [-1, -1, -1, -1]}]],
    )


Parameters = dict[str, bool | int | float | str]


class InputTensor(Request):
    """A tensor of a request."""

    name: str = Field(description="`IMAGE` or `TEXT`.", examples=["TEXT"])
    shape: list[int] = Field(
        description="Its shape: one size, the number of its elements.",
        max_length=100,
        examples=[[2]],
    )
    datatype: str = Field(description="`BYTES`.", examples=["BYTES"])
    parameters: Parameters | None = Field(
        None,
        description="`binary_data_size`: so many bytes after the JSON are the tensor, each of its "
        "elements preceded by its length in four bytes, the lowest first. Others are ignored.",
        examples=[{"binary_data_size": 14}],
    )
    data: list[str] | None = Field(
        None,
        description="The elements, unless they follow the JSON: texts, and pictures in base64 or "
        "as data URLs.",
        examples=[["a cat", "a dog"]],
    )


OutputName = Literal["HEATMAP", "SIMILARITY", "PROBABILITY"]


class RequestedOutput(Request):
    """A tensor that is wanted."""

    name: OutputName = Field(description="Its name.", examples=["HEATMAP"])
    parameters: Parameters | None = Field(
        None,
        description="`binary_data`: whether the tensor follows the JSON as bytes. Others are "
        "ignored.",
        examples=[{"binary_data": True}],
    )


class InferenceRequest(Request):
    """An inference request of the Open Inference Protocol: pictures and texts as tensors."""

    id: str | None = Field(
        None, max_length=256, description="Comes back in the answer.", examples=["42"]
    )
    model_name: str | None = Field(
        None,
        max_length=256,
        description="Ignored: the path names the model. KServe's client sends it.",
        examples=["starter"],
    )
    parameters: Parameters | None = Field(
        None,
        description="`ExplainOptions` whose value is a single one; `layers` may also be block "
        "indices with commas (`0,-1`), `templates` and `negatives` the name of a set. With "
        "`binary_data_output`, all tensors follow the JSON as bytes.",
        examples=[{"layers": 2, "fit": "pad"}],
    )
    inputs: list[InputTensor] = Field(
        max_length=100,
        description="`IMAGE`, the pictures, and `TEXT`, what to look for in each of them.",
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
        description="The tensors that are wanted; all if none is named.",
        examples=[[{"name": "HEATMAP"}]],
    )


class OutputTensor(Contract):
    """A tensor of an answer."""

    name: OutputName = Field(description="Its name.", examples=["HEATMAP"])
    datatype: Literal["FP32"] = Field(description="Type of its elements.", examples=["FP32"])
    shape: list[int] = Field(
        description="[images, texts, rows, columns] of maps, [images, texts] of the others.",
        examples=[[1, 1, 2, 2]],
    )
    parameters: Parameters | None = Field(
        None,
        description="`binary_data_size`: so many bytes after the JSON are the tensor.",
        examples=[{"binary_data_size": 16}],
    )
    data: list[float] | None = Field(
        None,
        description="The elements, the last dimension fastest, unless they follow the JSON.",
        examples=[[0.0, 0.00042, 0.00011, 0.0]],
    )


class InferenceResponse(Contract):
    """The explanations as tensors."""

    model_name: str = Field(description="Id of the model that answered.", examples=["starter"])
    model_version: str = Field(description="Its version.", examples=["1"])
    id: str = Field(
        description="Id of the request: its own, or else that of `X-Request-ID`.", examples=["42"]
    )
    outputs: list[OutputTensor] = Field(
        description="Maps are the raw patch grid, neither upsampled nor normalised.",
        examples=[
            [{"name": "SIMILARITY", "datatype": "FP32", "shape": [1, 1], "data": [0.31]}],
        ],
    )


class Ping(Contract):
    """The answer to TorchServe's `/ping`."""

    status: Literal["Healthy"] = Field(description="Always `Healthy`.", examples=["Healthy"])


class TorchServeError(Contract):
    """An error as TorchServe writes it."""

    code: int = Field(description="HTTP status.", examples=[404])
    type: str = Field(
        description="Slug of the kind, to branch on; `error` of our problem details.",
        examples=["unknown-model"],
    )
    message: str = Field(
        description="What happened and what to do.", examples=["There is no model 'nothing'."]
    )


# Every name that a request of each protocol may hold.
INSTANCES_NAMES = FIELD_NAMES | {"instances"}
INFERENCE_NAMES = frozenset(
    name
    for model in (InferenceRequest, InputTensor, RequestedOutput)
    for name in model.model_fields
)


def errors_of(model: type[Contract]) -> dict[int | str, dict[str, Any]]:
    """The error responses of a protocol, as its routes declare them."""
    return {
        "4XX": {"description": "The request is at fault.", "model": model},
        "5XX": {"description": "The server is at fault.", "model": model},
    }
