"""The fields of ONNX messages that a bundle may use. All other fields are refused.

Field numbers are those of https://github.com/onnx/onnx/blob/main/onnx/onnx.proto.
"""

from musix_runtime.bundle.protobuf import BYTES, FLOAT, INT, Field, Fields

_TENSOR_TYPE: Fields = {
    1: Field("elem_type", INT),
    2: Field("shape", {1: Field("dims", {1: Field("value", INT), 2: Field("name", BYTES)}, True)}),
}
_VALUE: Fields = {1: Field("name", BYTES), 2: Field("type", {1: Field("tensor", _TENSOR_TYPE)})}
_TENSOR: Fields = {
    1: Field("dims", INT, True),
    2: Field("data_type", INT),
    8: Field("name", BYTES),
    9: Field("raw_data", BYTES),
}
_ATTRIBUTE: Fields = {
    1: Field("name", BYTES),
    2: Field("f", FLOAT),
    3: Field("i", INT),
    4: Field("s", BYTES),
    7: Field("floats", FLOAT, True),
    8: Field("ints", INT, True),
    9: Field("strings", BYTES, True),
    20: Field("type", INT),
}
_NODE: Fields = {
    1: Field("inputs", BYTES, True),
    2: Field("outputs", BYTES, True),
    3: Field("name", BYTES),
    4: Field("op_type", BYTES),
    5: Field("attributes", _ATTRIBUTE, True),
    7: Field("domain", BYTES),
}
_GRAPH: Fields = {
    1: Field("nodes", _NODE, True),
    2: Field("name", BYTES),
    5: Field("initializers", _TENSOR, True),
    11: Field("inputs", _VALUE, True),
    12: Field("outputs", _VALUE, True),
}
MODEL: Fields = {
    1: Field("ir_version", INT),
    2: Field("producer_name", BYTES),
    3: Field("producer_version", BYTES),
    7: Field("graph", _GRAPH),
    8: Field("opsets", {1: Field("domain", BYTES), 2: Field("version", INT)}, True),
}
