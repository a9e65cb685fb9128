"""A classifier as one graph, from the pixels that `decode` gives to probabilities.

A classifier in a file that other programs can run, proven before it is written.
"""

import io
import json
from importlib.util import find_spec
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from neither.data.preprocessing import Preprocessing, normalize
from neither.inference.classifier import BATCH_SIZE, Classifier
from neither.models.checkpoint import Checkpoint
from neither.models.softmax import tempered_softmax
from neither.runtime.errors import OutputError

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


Format = Literal["onnx", "pt2"]
METADATA = "metadata.json"  # the extra file of a .pt2
TOLERANCE = 1e-4  # of a probability

_NEEDED = ("onnx", "onnxscript", "onnxruntime")


def require_packages(kind: Format) -> None:
    """Refuse what this installation cannot write.

    Raises:
        OutputError: with the remedy.
    """
    missing = [name for name in _NEEDED if kind == "onnx" and find_spec(name) is None]
    if missing:
        raise OutputError(f"{missing[0]} is not installed; run: pip install 'neither[onnx]'")


def to_file(checkpoint: Checkpoint, kind: Format) -> bytes:
    """Return the content of a file that needs no other: graph, weights and metadata.

    Args:
        checkpoint: to be exported.
        kind: `onnx`, for ONNX Runtime and others; `pt2`, for `torch.export.load`.
    """
    program, facts = trace(checkpoint), describe(checkpoint)
    return _to_onnx(program, facts) if kind == "onnx" else _to_pt2(program, facts)


def run(content: bytes, kind: Format, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Run a file as its user would, on the CPU.

    Args:
        content: of the file.
        kind: its format.
        pixels: (B, S, S, 3) uint8 RGB.

    Returns:
        (B, C) float32 probabilities.
    """
    if kind == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])
    with torch.inference_mode():
        answers = torch.export.load(io.BytesIO(content)).module()(torch.from_numpy(pixels))
    return np.asarray(answers)


def require_same(
    content: bytes, kind: Format, classifier: Classifier, pixels: NDArray[np.uint8]
) -> float:
    """Demand that a file answers as its classifier does, also to one picture alone.

    Args:
        content: of the file.
        kind: its format.
        classifier: on the CPU.
        pixels: (N, S, S, 3) uint8 RGB, one or more.

    Returns:
        The largest difference of a probability.

    Raises:
        RuntimeError: if one differs by more than `TOLERANCE`, or is no number: a defect of ours.
    """
    expected = classifier.probabilities(classifier.logits(torch.from_numpy(pixels))).numpy()
    batches = [
        slice(0, 1),
        *(slice(at, at + BATCH_SIZE) for at in range(0, len(pixels), BATCH_SIZE)),
    ]
    worst = max(
        float(np.abs(run(content, kind, pixels[batch]) - expected[batch]).max())
        for batch in batches
    )
    if not worst <= TOLERANCE:  # NaN fails too
        raise RuntimeError(
            f"the exported file and the classifier differ by {worst:.1e} in a probability, more "
            f"than {TOLERANCE:.0e}; nothing was written. This is a defect: please report it"
        )
    return worst


def _to_onnx(program: ExportedProgram, facts: dict[str, Any]) -> bytes:
    import onnx

    exported = torch.onnx.export(
        program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, external_data=False,
        verbose=False,
    )  # fmt: skip
    if exported is None:
        raise RuntimeError("torch.onnx.export gave nothing")
    model = exported.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # how torch came to it
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    texts = {key: fact if isinstance(fact, str) else json.dumps(fact)
             for key, fact in facts.items()}  # fmt: skip
    onnx.helper.set_model_props(model, texts)
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())


def _to_pt2(program: ExportedProgram, facts: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA: json.dumps(facts)})
    return file.getvalue()
