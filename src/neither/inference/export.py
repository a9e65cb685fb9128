"""Export a checkpoint as one file for other programs: from decoded pixels to probabilities."""

import io
import json
from collections.abc import Callable
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

Format = Literal["onnx", "pt2"]
INPUT, OUTPUT = "images", "probabilities"
METADATA = "metadata.json"  # the extra file in a .pt2
TOLERANCE = 1e-4  # of a probability


def export_checkpoint(checkpoint: Checkpoint, file_format: Format) -> bytes:
    """Return graph, weights and metadata as the content of one file.

    The format is `onnx`, for ONNX Runtime and others, or `pt2`, for `torch.export.load`.

    Raises:
        CheckpointError: if the weights do not fit the architecture of the checkpoint.
    """
    program, metadata = _trace(checkpoint), export_metadata(checkpoint)
    if file_format == "onnx":
        return _to_onnx(program, metadata)
    file = io.BytesIO()
    torch.export.save(program, file, extra_files={METADATA: json.dumps(metadata)})
    return file.getvalue()


def export_metadata(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return what a user of the graph must know besides; keys that do not apply are absent."""
    preprocessing = checkpoint.preprocessing
    metadata = {
        "classes": list(checkpoint.classes),
        "image_size": preprocessing.image_size,
        "resize": preprocessing.resize,
        "decoder": preprocessing.decoder,
        "preprocessing": preprocessing.fingerprint(),
        "temperature": checkpoint.temperature,
        "reject_class": checkpoint.reject_class,
        "target_precision": checkpoint.decision_rule.target_precision,
        "calibrated_on": checkpoint.calibrated_on,
        **checkpoint.decision_rule.to_json(),
    }
    return {key: value for key, value in metadata.items() if value is not None}


def load_exported(
    content: bytes, file_format: Format
) -> Callable[[NDArray[np.uint8]], NDArray[np.float32]]:
    """Load an exported file for the CPU, as a user does.

    Returns:
        A function from (B, S, S, 3) uint8 RGB to (B, C) float32 probabilities.
    """
    if file_format == "onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
        return lambda pixels: np.asarray(session.run([OUTPUT], {INPUT: pixels})[0])
    program = torch.export.load(io.BytesIO(content)).module()

    @torch.inference_mode()
    def run(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        return np.asarray(program(torch.from_numpy(pixels)))

    return run


def verify_export(
    content: bytes, file_format: Format, classifier: Classifier, pixels: NDArray[np.uint8]
) -> float:
    """Check that an exported file gives the probabilities of its classifier, also for one image.

    The classifier is on the CPU; pixels are (N, S, S, 3) uint8 RGB, N at least 1.

    Returns:
        The largest difference of a probability.

    Raises:
        RuntimeError: if it is more than `TOLERANCE` or NaN, which is a defect of this project.
    """
    run = load_exported(content, file_format)
    expected = classifier.probabilities(classifier.logits(torch.from_numpy(pixels))).numpy()
    starts = range(0, len(pixels), BATCH_SIZE)
    batches = [slice(0, 1), *(slice(start, start + BATCH_SIZE) for start in starts)]
    difference = max(float(np.abs(run(pixels[batch]) - expected[batch]).max()) for batch in batches)
    if not difference <= TOLERANCE:  # also if it is NaN
        raise RuntimeError(
            f"the exported file and the classifier differ by {difference:.1e} in a probability, "
            f"more than {TOLERANCE:.0e}; nothing was written. This is a defect: please report it"
        )
    return difference


class _Graph(nn.Module):
    """Normalisation, network, temperature and softmax, in float32."""

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


def _trace(checkpoint: Checkpoint) -> ExportedProgram:
    """Trace the graph on the CPU for a dynamic batch size."""
    graph = _Graph(checkpoint.build(), checkpoint.preprocessing, checkpoint.temperature).eval()
    graph.to(memory_format=torch.contiguous_format)  # as both formats store weights
    size = checkpoint.preprocessing.image_size
    images = torch.zeros(2, size, size, 3, dtype=torch.uint8)  # a batch of 1 would become fixed
    program = torch.export.export(graph, (images,), dynamic_shapes={INPUT: {0: Dim("batch")}})
    for node in program.graph.nodes:
        node.meta.pop("stack_trace", None)  # paths of this machine
    return program


def _to_onnx(program: ExportedProgram, metadata: dict[str, Any]) -> bytes:
    import onnx

    exported = torch.onnx.export(
        program, input_names=[INPUT], output_names=[OUTPUT], dynamo=True, external_data=False,
        verbose=False,
    )  # fmt: skip
    if exported is None:
        raise RuntimeError("torch.onnx.export returned nothing")
    model = exported.model_proto
    for node in model.graph.node:
        del node.metadata_props[:]  # the trace of torch, with paths of this machine
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    onnx.helper.set_model_props(model, {
        key: value if isinstance(value, str) else json.dumps(value)
        for key, value in metadata.items()
    })  # fmt: skip
    onnx.checker.check_model(model)
    return bytes(model.SerializeToString())
