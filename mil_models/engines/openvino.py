"""OpenVINO: the fastest way through a network on a CPU, in float32, bfloat16 or int8."""

from __future__ import annotations

import threading
import warnings
from typing import Any, ClassVar

import numpy as np
import openvino as ov
import torch
from PIL import Image

from mil_models.engines.base import PRECISIONS, Embeddings, Engine, Tiles, cpu_lanes
from mil_models.errors import EngineError

CALIBRATION_TILES = 128


class OpenVinoEngine(Engine):
    """A graph from uint8 tiles to embeddings, normalisation included, one stream per core.

    A stream has one thread, so that decoding and encoding share the cores without fighting for
    them, and the numbers do not depend on how many cores there are. Precision is always set:
    OpenVINO's own default is bfloat16 wherever the processor has it.
    """

    name: ClassVar[str] = "openvino"

    def __init__(self, network: torch.nn.Module, **arguments: Any) -> None:
        super().__init__(network, **arguments)
        self.lanes = cpu_lanes()
        self._core = ov.Core()
        if self.precision not in self.precisions_here():
            raise EngineError(
                "this processor has no bfloat16 instructions; use --precision float32 (or auto)"
            )
        self._graphs: dict[tuple[int, ...], Any] = {}
        self._compiled: dict[tuple[int, ...], Any] = {}
        self._requests = threading.local()
        self._lock = threading.Lock()

    @classmethod
    def version(cls) -> str:
        return f"openvino {ov.__version__.partition('-')[0]}"

    @classmethod
    def precisions_here(cls) -> tuple[str, ...]:
        return PRECISIONS if has_bfloat16() else ("float32", "int8")

    def run(self, tiles: Tiles) -> Embeddings:
        request = self._request(tiles.shape)
        request.infer({0: tiles}, share_inputs=True)
        return np.array(request.get_output_tensor(0).data, np.float32)

    def _request(self, shape: tuple[int, ...]) -> Any:
        """Return this thread's own request for tiles of that shape."""
        mine: dict[tuple[int, ...], Any] = self._requests.__dict__.setdefault("by_shape", {})
        if shape not in mine:
            with self._lock:
                if shape not in self._compiled:
                    self._compiled[shape] = self._compile(shape)
            mine[shape] = self._compiled[shape].create_infer_request()
        return mine[shape]

    def at(self, precision: str) -> OpenVinoEngine:
        if precision == self.precision:
            return self
        other = OpenVinoEngine(
            self.network, mean=[v / 255 for v in self.mean], std=[v / 255 for v in self.std],
            batch=self.batch, precision=precision, device=self.device,
            calibration=self.calibration,
        )  # fmt: skip
        other._graphs = self._graphs  # converted once
        return other

    def _compile(self, shape: tuple[int, ...]) -> Any:
        if shape not in self._graphs:
            self._graphs[shape] = self._converted(shape)
        graph = self._graphs[shape]
        if self.precision == "int8":
            graph = self._quantized(graph, shape[1:3])
        kind = ov.Type.bf16 if self.precision == "bfloat16" else ov.Type.f32
        return self._core.compile_model(
            graph,
            "CPU",
            {
                ov.properties.hint.inference_precision(): kind,
                ov.properties.num_streams(): self.lanes,
                ov.properties.inference_num_threads(): self.lanes,
                ov.properties.hint.enable_cpu_pinning(): False,
            },
        )

    def _converted(self, shape: tuple[int, ...]) -> Any:
        """Return the graph from uint8 ``(batch, H, W, 3)`` to embeddings."""
        batch, height, width, channels = shape
        example = torch.zeros(batch, channels, height, width)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch.export warns of its own parts
            with torch.no_grad():
                program = torch.export.export(self.network, (example,))
            graph = ov.convert_model(program)
        graph.reshape([batch, channels, height, width])
        steps = ov.preprocess.PrePostProcessor(graph)
        steps.input().tensor().set_element_type(ov.Type.u8).set_layout(ov.Layout("NHWC"))
        steps.input().model().set_layout(ov.Layout("NCHW"))
        steps.input().preprocess().convert_element_type(ov.Type.f32).mean(self.mean).scale(self.std)
        return steps.build()

    def _quantized(self, graph: Any, size: tuple[int, ...]) -> Any:
        try:
            import nncf
        except ImportError as err:
            raise EngineError(
                "int8 needs nncf: pip install 'wsi-pipeline[int8]', or another --precision"
            ) from err
        if self.calibration is None:
            raise EngineError("int8 needs tissue tiles to calibrate; pass calibration=")
        tissue = resized(self.calibration[:CALIBRATION_TILES], (size[1], size[0]))
        batches = [
            np.resize(tissue[i : i + self.batch], (self.batch, *tissue.shape[1:]))
            for i in range(0, len(tissue), self.batch)
        ]
        nncf.set_log_level(40)
        return nncf.quantize(graph, nncf.Dataset(batches), subset_size=len(batches))


def resized(tiles: Tiles, size: tuple[int, int]) -> Tiles:
    """Return tiles ``(N, H, W, 3)`` at `size` (width, height), bicubic."""
    if tiles.shape[2:0:-1] == size:
        return tiles
    return np.stack(
        [np.asarray(Image.fromarray(t).resize(size, Image.Resampling.BICUBIC)) for t in tiles]
    )


def has_bfloat16() -> bool:
    """Whether this processor multiplies in bfloat16."""
    return "BF16" in ov.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
