"""Compiled networks are captured whole and compute the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from zsad import detector
from zsad.config import ForegroundConfig, ModelConfig, load_config
from zsad.models import clip, clipseg, sam, sam_encoder
from zsad.models.compiling import compile_networks
from zsad.models.sam_mask_generator import MaskGenerator

IMAGE = np.random.default_rng(0).integers(0, 256, (96, 128, 3), np.uint8)


def _sam():
    model = sam.load(ModelConfig(name="random-sam"))
    config = ForegroundConfig(pred_iou_threshold=-9, stability_threshold=0, points_per_side=2)
    return model, lambda: torch.tensor([one.area for one in MaskGenerator(model).annotate(IMAGE, config)])


def _clip():
    model = clip.load(ModelConfig(name="random-clip"))
    return model, lambda: model.embed_images(model.preprocess([IMAGE]))


def _clipseg():
    model = clipseg.load(ModelConfig(name="random-clipseg"))
    return model, lambda: model.logits(model.preprocess([IMAGE]), model.embed_prompts(["damage"]))


@pytest.mark.parametrize("build", [_sam, _clip, _clipseg])
def test_a_compiled_model_says_the_same(build, monkeypatch):
    # What is compiled is what runs on a GPU.
    monkeypatch.setattr(sam_encoder, "_on_cpu", lambda device: False)
    torch.compiler.reset()
    counters.clear()
    model, ask = build()
    before = ask()
    graphs = []

    def backend(graph, example_inputs):
        graphs.append(graph)
        return graph.forward

    compile_networks(model, backend)
    assert torch.allclose(before.float(), ask().float(), atol=1e-6)
    assert graphs and not counters["graph_break"]
    torch.compiler.reset()


@pytest.mark.parametrize(("device", "compiled"), [("cuda", ["the model"]), ("cpu", [])])
def test_the_configuration_compiles_on_a_gpu_only(monkeypatch, device, compiled):
    class Step:
        name, model = "step", "the model"

        @classmethod
        def from_config(cls, config, device):
            return cls()

    seen = []
    monkeypatch.setattr(detector, "METHOD", (Step,))
    monkeypatch.setattr(detector, "device_of", lambda config: device)
    monkeypatch.setattr(detector, "compile_networks", seen.append)
    detector.build_steps(load_config("mini", None, ["runtime.compile=true"]))
    assert seen == compiled
    detector.build_steps(load_config("mini"))
    assert seen == compiled
