"""Mutations of ONNX files, by how often each is made."""

from tests.fuzz.onnx_attacks import bombs, endings, external, integers
from tests.fuzz.onnx_graphs import attributes, constants, model_fields, nodes, ports, shapes, trees
from tests.fuzz.onnx_wire import random_bytes, wire

MUTATIONS = (
    constants, constants, shapes, external, bombs, integers, endings, endings, ports, nodes, nodes, attributes,
    trees, trees, model_fields, random_bytes, wire, wire, wire,
)  # fmt: skip
