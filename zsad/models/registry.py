"""The models that a configuration may name: where their weights come from, licence, size, sha256."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from zsad.errors import UsageError
from zsad.text import size

Family = Literal["isnet", "sam", "clip", "clipseg"]


@dataclass(frozen=True)
class WeightsEntry:
    """One model that a configuration may name.

    Attributes:
        name: the name in the configuration, e.g. ``sam-vit-h`` or ``MODEL/TAG`` of open_clip.
        family: which model file builds it.
        filename: the file's name in ``$ZSAD_WEIGHTS`` and in the cache (unique, unlike the hub's).
        source: ``https://...``, ``hf://owner/name[@revision]/path``, ``bundled`` (a file of the package)
            or ``random`` (seeded, untrained, no file).
        sha256: hash of the file; None = recorded at the first download and held from then on.
        size_bytes: size of the file, to within a percent where only the architecture is known; None = unknown.
        licence: licence of the weights.
        note: what a user should know.
        tokenizer: hub repository whose tokenizer files the text side needs as well, or None.
    """

    name: str
    family: Family
    filename: str
    source: str
    sha256: str | None
    size_bytes: int | None
    licence: str
    note: str = ""
    tokenizer: str | None = None


_SAM_URL = "https://dl.fbaipublicfiles.com/segment_anything/"
_UNPINNED = "sha256 not published here: recorded at the first download, held afterwards"

_MINI: tuple[tuple[Family, str, int], ...] = (
    ("isnet", "eedb25381e547b1c3574bc02ca29a74ca2168df77dcef7410b2b5638a88fa267", 1_472_556),
    ("sam", "d8df1e6ff9a513206298af60a8ed40ba10e74ecb8481eb5bdaf5ca783e7b7169", 1_596_280),
    ("clip", "ab486afe8c853b90f326d4473d888fa10c437b849dad43338a004d27e4a8c061", 13_187_906),
    ("clipseg", "21b0fdc0b9f4ad430eb2b6599444a3df7c47a209ed11dbdaa028a1a4d6874127", 8_618_668),
)
"""Family, sha256 and bytes of the models that come with the package."""

_ENTRIES = (
    WeightsEntry(
        "isnet-general-use",
        "isnet",
        "isnet-general-use.pth",
        "https://huggingface.co/NimaBoscarino/IS-Net_DIS-general-use/resolve/main/isnet-general-use.pth",
        "9e1aafea58f0b55d0c35077e0ceade6ba1ba2bce372fd4f8f77215391f3fac13",
        176_500_000,
        "none stated (code Apache-2.0; trained on DIS5K, non-commercial terms)",
        "IS-Net, general use (Qin et al., ECCV 2022), about 177 MB; a mirror of the authors' file",
    ),
    WeightsEntry(
        "sam-vit-h",
        "sam",
        "sam_vit_h_4b8939.pth",
        _SAM_URL + "sam_vit_h_4b8939.pth",
        "a7bf3b02f3ebf1267aba913ff637d9a2d5c33d3173bb679e46d9f338c26f262e",
        2_564_550_879,
        "Apache-2.0",
        "Segment Anything, ViT-H (Kirillov et al., ICCV 2023)",
    ),
    WeightsEntry(
        "sam-vit-l",
        "sam",
        "sam_vit_l_0b3195.pth",
        _SAM_URL + "sam_vit_l_0b3195.pth",
        "3adcc4315b642a4d2101128f611684e8734c41232a17c648ed1693702a49a622",
        1_249_524_607,
        "Apache-2.0",
        "Segment Anything, ViT-L",
    ),
    WeightsEntry(
        "sam-vit-b",
        "sam",
        "sam_vit_b_01ec64.pth",
        _SAM_URL + "sam_vit_b_01ec64.pth",
        "ec2df62732614e57411cdcf32a23ffdf28910380d03139ee0f4fcbe91eb8c912",
        375_042_383,
        "Apache-2.0",
        "Segment Anything, ViT-B",
    ),
    WeightsEntry(
        "ViT-B-16-plus-240/laion400m_e31",
        "clip",
        "ViT-B-16-plus-240-laion400m_e31.bin",
        "hf://timm/vit_base_patch16_plus_clip_240.laion400m_e31/open_clip_pytorch_model.bin",
        "fa8eec9aff58e9215b9b44a977038179712694d3fc3a73eba62546bcff13deb3",
        833_600_000,
        "MIT",
        "OpenCLIP on LAION-400M, as in WinCLIP; the hub's laion400m_e32 is this same file",
    ),
    WeightsEntry(
        "ViT-L-14-336-quickgelu/openai",
        "clip",
        "ViT-L-14-336-quickgelu-openai.safetensors",
        "hf://timm/vit_large_patch14_clip_336.openai@81e38efc4637de5023b10e75a7f9bd1c6fa6b010"
        "/open_clip_model.safetensors",
        "fbc415c3d0d7b79faed8f5ccfb740c32b7c4f5ffe7283b851f89c6231c01a8e0",
        None,
        "MIT",
        "OpenAI CLIP ViT-L/14 at 336 px (Radford et al., ICML 2021)",
    ),
    WeightsEntry(
        "ViT-H-14/laion2b_s32b_b79k",
        "clip",
        "ViT-H-14-laion2b_s32b_b79k.bin",
        "hf://laion/CLIP-ViT-H-14-laion2B-s32B-b79K/open_clip_pytorch_model.bin",
        "9a78ef8e8c73fd0df621682e7a8e8eb36c6916cb3c16b291a082ecd52ab79cc4",
        3_944_692_325,
        "MIT",
        "OpenCLIP on LAION-2B",
    ),
    WeightsEntry(
        "ViT-SO400M-16-SigLIP2-384/webli",
        "clip",
        "ViT-SO400M-16-SigLIP2-384-webli.safetensors",
        "hf://timm/ViT-SO400M-16-SigLIP2-384@fec784dabb3081a5f101fc74eefaf9d1ed08237b/open_clip_model.safetensors",
        "8ceec00df3c462d155d172933339cd9178a86bfab72f4458dbe84bd54f5ad026",
        None,
        "Apache-2.0",
        "SigLIP 2 (Tschannen et al., 2025); context length 64, needs its tokenizer files",
        "timm/ViT-SO400M-16-SigLIP2-384@fec784dabb3081a5f101fc74eefaf9d1ed08237b",
    ),
    WeightsEntry(
        "PE-Core-L-14-336/meta",
        "clip",
        "PE-Core-L-14-336-meta.safetensors",
        "hf://timm/PE-Core-L-14-336@8eff41b3f687e50a323662c2dda5eb3588c6dd35/open_clip_model.safetensors",
        "b1fff7093c32a01d98a2d82098f9adf788b30f0efee639916520b3e4302f786b",
        None,
        "Apache-2.0",
        "Perception Encoder (Bolya et al., 2025); context length 32",
    ),
    WeightsEntry(
        "clipseg-rd64-refined",
        "clipseg",
        "clipseg-rd64-refined.safetensors",
        "hf://CIDAS/clipseg-rd64-refined/model.safetensors",
        None,
        603_000_000,
        "Apache-2.0",
        f"CLIPSeg (Lueddecke and Ecker, CVPR 2022), about 603 MB; {_UNPINNED}",
    ),
    *(
        WeightsEntry(
            f"mini-{family}",
            family,
            f"mini-{family}.safetensors",
            "bundled",
            sha256,
            size,
            "Apache-2.0",
            "small, trained on drawn parts (zsad/models/bundled/README.md): for demonstration, not for real parts",
        )
        for family, sha256, size in _MINI
    ),
    *(
        WeightsEntry(
            f"random-{family}",
            family,
            f"random-{family}.safetensors",
            "random",
            None,
            None,
            "Apache-2.0",
            "small, seeded, untrained: exercises the code, its scores mean nothing",
        )
        for family in ("isnet", "sam", "clip", "clipseg")
    ),
)

REGISTRY: Mapping[str, WeightsEntry] = MappingProxyType({entry.name: entry for entry in _ENTRIES})
"""Every named model. ``entry`` also accepts any other ``MODEL/TAG`` that open_clip knows."""


def entry(name: str) -> WeightsEntry:
    """The registry's entry for a model name.

    Raises:
        UsageError: unknown name; lists the known ones.
    """
    if name in REGISTRY:
        return REGISTRY[name]
    found = _open_clip_entry(name) if "/" in name else None
    if found is None:
        raise UsageError(
            f"Unknown model {name!r}. Expected one of: {', '.join(REGISTRY)}; "
            f"or MODEL/TAG of any pretrained open_clip model."
        )
    return found


def is_trained(name: str, explicit: str | Path | None = None) -> bool:
    """False for a seeded random model without an explicit weights file: its scores mean nothing."""
    return explicit is not None or entry(name).source != "random"


def size_text(size_bytes: int | None) -> str:
    """A size for people, e.g. ``2.6 GB``."""
    return "size not known" if size_bytes is None else size(size_bytes)


def _open_clip_entry(name: str) -> WeightsEntry | None:
    import open_clip

    model, _, tag = name.rpartition("/")
    found = open_clip.get_pretrained_cfg(model, tag)
    architecture = open_clip.get_model_config(model)
    hub, url = (found or {}).get("hf_hub", ""), (found or {}).get("url", "")
    if architecture is None or not (hub or url):
        return None
    if (found or {}).get("quick_gelu") and not architecture.get("quick_gelu"):
        raise UsageError(
            f"The weights {tag!r} of {model} were trained with the activation QuickGELU, which {name!r} does not compute. "
            f"Expected '{model}-quickgelu/{tag}', with a new --output where one was scored under this name."
        )
    repository, _, file = hub.rpartition("/")
    file = file or "open_clip_model.safetensors"
    return WeightsEntry(
        name,
        "clip",
        f"{model}-{tag}{Path(file if hub else url).suffix}",
        f"hf://{repository}/{file}" if hub else url,
        None,
        None,
        "see the model's page",
        f"open_clip registry; {_UNPINNED}",
        architecture["text_cfg"].get("hf_tokenizer_name"),
    )
