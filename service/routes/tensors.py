"""Tensors of the Open Inference Protocol, in the JSON or as bytes after it."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from service.errors import MalformedBodyError
from service.http.problems import invalid
from service.routes.bodies.validation import check_value_count
from service.schemas.protocols import InferenceResponse, InputTensor, OutputTensor

JSON_LENGTH_HEADER = "Inference-Header-Content-Length"

_LENGTH_BYTES = 4


@dataclass(frozen=True, slots=True)
class BytesTensor:
    """A list of texts or byte strings.

    Attributes:
        field: name of the elements' field in the request, for errors.
        elements: texts from the JSON, or byte strings from after it.
    """

    field: str
    elements: Sequence[str | bytes]


def split_body(raw: bytes, json_length: str | None) -> tuple[bytes, bytes]:
    """Split a body into its JSON and the bytes after it.

    Args:
        raw: the body.
        json_length: header with the length of the JSON in bytes; None if there is only JSON.

    Raises:
        MalformedBodyError: the header is not a length, or the body is shorter.
    """
    if json_length is None:
        return raw, b""
    # Longer numbers exceed every accepted body, and are slow to parse.
    if not (json_length.isascii() and json_length.isdigit() and len(json_length) <= 12):
        raise MalformedBodyError(
            f"{JSON_LENGTH_HEADER} should be the length of the JSON in bytes, not "
            f"{json_length[:32]!r}.",
            field=JSON_LENGTH_HEADER,
        )
    length = int(json_length)
    if length > len(raw):
        raise MalformedBodyError(
            f"{JSON_LENGTH_HEADER} is {length}, but the body has {len(raw)} bytes.",
            field=JSON_LENGTH_HEADER,
        )
    return raw[:length], raw[length:]


def read_tensors(
    inputs: Sequence[InputTensor], appended: bytes, names: Collection[str]
) -> dict[str, BytesTensor]:
    """Read the input tensors.

    Args:
        inputs: the tensors in the JSON.
        appended: the bytes after the JSON: all binary tensors, in order.
        names: names of the required tensors; others are refused.

    Returns:
        The tensors by name.

    Raises:
        RequestValidationError: a tensor is missing, unknown, or of another type or shape.
        MalformedBodyError: the bytes after the JSON do not match their description in it.
        LimitExceededError: a tensor has too many elements.
    """
    tensors: dict[str, BytesTensor] = {}
    begin = 0
    for position, tensor in enumerate(inputs):
        field = f"inputs.{position}"
        if tensor.name not in names or tensor.name in tensors:
            raise invalid(
                f"Send {' and '.join(names)} once each, not {tensor.name!r}.",
                "inputs", position, "name",
            )  # fmt: skip
        count = _count(tensor, position)
        parameters = tensor.parameters or {}
        check_parameters(parameters, "inputs", position)
        size = parameters.get("binary_data_size")
        if (size is None) == (tensor.data is None):
            raise invalid(
                "Give either data or the parameter binary_data_size; shared memory is not "
                "supported.",
                "inputs", position, "data",
            )  # fmt: skip
        if size is None:
            elements: Sequence[str | bytes] = tensor.data or []
            if len(elements) != count:
                raise invalid(
                    f"The shape says {count} elements, but there are {len(elements)}.",
                    "inputs", position, "data",
                )  # fmt: skip
        else:
            if isinstance(size, bool) or not isinstance(size, int) or size < 0:
                raise invalid(
                    f"binary_data_size should be a number of bytes, not {size!r}.",
                    "inputs", position, "parameters",
                )  # fmt: skip
            if begin + size > len(appended):
                raise MalformedBodyError(
                    f"{tensor.name} should have {size} bytes after the JSON, but there are "
                    f"{len(appended) - begin}.",
                    field=field,
                )
            elements = _elements(appended[begin : begin + size], count, field)
            begin += size
        tensors[tensor.name] = BytesTensor(f"{field}.data", elements)
    if begin != len(appended):
        raise MalformedBodyError(
            f"{len(appended) - begin} bytes after the JSON belong to no tensor.", field="body"
        )
    for name in names:
        if name not in tensors:
            raise invalid(f"The tensor {name} is missing.", "inputs")
    return tensors


def check_parameters(parameters: Mapping[str, object], *location: str | int) -> None:
    """Refuse parameters of a tensor that ask for other data or for another answer.

    Args:
        parameters: the parameters by name.
        location: path of the tensor in the request.

    Raises:
        RequestValidationError: there is such a parameter.
    """
    for name in parameters:
        if name.startswith("shared_memory"):
            raise invalid("Shared memory is not supported.", *location, "parameters", name)
        if name == "classification":
            raise invalid(
                "Classification is not supported: leave it out, and sort PROBABILITY.",
                *location, "parameters", name,
            )  # fmt: skip


def write_tensors(
    response: InferenceResponse, tensors: Mapping[str, NDArray[np.float32]], binary: Collection[str]
) -> tuple[bytes, int | None]:
    """Write the body of an answer.

    Args:
        response: the answer without its outputs.
        tensors: float32, by name.
        binary: names of the tensors that follow the JSON as bytes.

    Returns:
        The body, and the length of its JSON in bytes, or None if the body is only JSON.
    """
    outputs, appended = [], []
    for name, values in tensors.items():
        if name in binary:
            appended.append(np.ascontiguousarray(values, "<f4").tobytes())
        outputs.append(
            OutputTensor(
                name=name,
                datatype="FP32",
                shape=list(values.shape),
                parameters={"binary_data_size": len(appended[-1])} if name in binary else None,
                data=None if name in binary else values.ravel().tolist(),
            )
        )
    filled = response.model_copy(update={"outputs": outputs})
    json = filled.model_dump_json(exclude_none=True).encode()
    return b"".join((json, *appended)), len(json) if appended else None


def _count(tensor: InputTensor, position: int) -> int:
    if tensor.datatype != "BYTES":
        raise invalid(
            f"{tensor.name} is BYTES, not {tensor.datatype!r}.", "inputs", position, "datatype"
        )
    if len(tensor.shape) != 1 or tensor.shape[0] < 1:
        raise invalid(
            f"The shape of {tensor.name} is the number of its elements, at least one, such as [2], "
            f"not {tensor.shape}.",
            "inputs", position, "shape",
        )  # fmt: skip
    (count,) = tensor.shape
    check_value_count(count)
    return count


def _elements(data: bytes, count: int, field: str) -> list[bytes]:
    elements = []
    begin = 0
    for _ in range(count):
        content = begin + _LENGTH_BYTES
        end = content + int.from_bytes(data[begin:content], "little")
        if end > len(data):
            break
        elements.append(data[content:end])
        begin = end
    if len(elements) != count or begin != len(data):
        raise MalformedBodyError(
            f"The {len(data)} bytes are not {count} elements: write each as its length, a "
            "little-endian number of four bytes, and then its bytes.",
            field=field,
        )
    return elements
