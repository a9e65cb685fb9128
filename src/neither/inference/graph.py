"""A classifier as one graph, from the pixels that `decode` gives to probabilities."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from neither.data.augmentation import normalize
from neither.data.preprocessing import Preprocessing
from neither.model.checkpoint import Checkpoint
from neither.model.softmax import tempered_softmax

INPUT, OUTPUT = "images", "probabilities"


class Graph(nn.Module):
    """Normalisation, network, temperature and softmax, one after the other, in float32."""

    def __init__(
        self, network: nn.Module, preprocessing: Preprocessing, temperature: float
    ) -> None:
        super().__init__()
        self.network = network
        self.preprocessing = preprocessing
        self.temperature = temperature

    def forward(self, images: Tensor) -> Tensor:
        """Return probabilities (B, C) float32 of images (B, S, S, 3) uint8 RGB."""
        logits = self.network(normalize(images, self.preprocessing))
        return tempered_softmax(logits.float(), self.temperature)


def trace(checkpoint: Checkpoint) -> ExportedProgram:
    """Trace a checkpoint's graph, on the CPU, for any number of images at once.

    Raises:
        CheckpointError: if the weights do not fit the network that the checkpoint names.
    """
    graph = Graph(checkpoint.build(), checkpoint.preprocessing, checkpoint.temperature).eval()
    graph.to(memory_format=torch.contiguous_format)  # as both formats store weights
    size = checkpoint.preprocessing.image_size
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # of 1, one would be all it takes
    program = torch.export.export(graph, (images,), dynamic_shapes={INPUT: {0: Dim("batch")}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # whose machine it was, file by file, is nobody's matter
    return program


def describe(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a user of the graph must know besides; what does not apply is absent."""
    preprocessing = checkpoint.preprocessing
    facts: dict[str, Any] = {
        "classes": list(checkpoint.classes),
        "image_size": preprocessing.image_size,
        "resize": preprocessing.resize,
        "preprocessing": preprocessing.fingerprint(),
        "temperature": checkpoint.temperature,
    }
    if checkpoint.reject_class is not None:
        facts["reject_class"] = checkpoint.reject_class
    if checkpoint.threshold is not None:
        facts["threshold"] = checkpoint.threshold
    return facts
