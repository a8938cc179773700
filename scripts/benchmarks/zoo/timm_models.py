"""Models of timm: one or more of each of its families, the smallest, on small inputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from scripts.benchmarks.zoo.entry import Entry, image

_VIT = {"img_size": 64, "depth": 2, "embed_dim": 64, "num_heads": 4}
_STAGES: dict[str, Any] = {"depths": (1, 1, 2, 1)}

SIZES: dict[str, tuple[int, dict[str, Any]]] = {
    "beit_base_patch16_224": (64, _VIT),
    "lambda_resnet26rpt_256": (256, {}),
    "gcresnext26ts": (64, {}),
    "repvgg_a0": (64, {}),
    "mobileone_s0": (64, {}),
    "cait_xxs24_224": (64, {"img_size": 64, "depth": 2}),
    "coat_lite_tiny": (64, {"img_size": 64}),
    "convit_tiny": (64, {"img_size": 64, "depth": 2, "local_up_to_layer": 1}),
    "convmixer_768_32": (64, {}),
    "convnext_atto": (64, {}),
    "convnextv2_atto": (64, {}),
    "crossvit_tiny_240": (240, {}),
    "darknet17": (64, {}),
    "cspresnet50": (64, {}),
    "davit_tiny": (64, {**_STAGES, "embed_dims": (32, 64, 96, 128), "num_heads": (2, 4, 6, 8)}),
    "deit_tiny_distilled_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "deit3_small_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "dla34": (64, {}),
    "dpn48b": (64, {}),
    "edgenext_xx_small": (64, {}),
    "efficientformer_l1": (224, {}),
    "efficientnet_lite0": (64, {}),
    "mixnet_s": (64, {}),
    "efficientvit_b0": (64, {}),
    "efficientvit_m0": (224, {}),
    "eva02_tiny_patch14_224": (56, {"img_size": 56, "depth": 2}),
    "fasternet_t0": (64, {}),
    "fastvit_t8": (64, {}),
    "focalnet_tiny_srf": (64, {}),
    "gcvit_xxtiny": (224, {}),
    "ghostnet_050": (64, {}),
    "hgnetv2_b0": (64, {}),
    "hiera_tiny_224": (224, {"stages": (1, 1, 2, 1)}),
    "hrnet_w18_small": (64, {}),
    "inception_next_atto": (64, {}),
    "lcnet_050": (64, {}),
    "levit_128s": (224, {}),
    "mambaout_femto": (64, {}),
    "coatnet_pico_rw_224": (224, {}),
    "maxvit_pico_rw_256": (256, {}),
    "poolformer_s12": (64, {}),
    "caformer_s18": (64, {}),
    "mixer_s32_224": (64, {"img_size": 64}),
    "resmlp_12_224": (64, {"img_size": 64}),
    "gmlp_ti16_224": (64, {"img_size": 64}),
    "mobilenetv3_small_050": (64, {}),
    "mobilenetv4_conv_small": (64, {}),
    "mobilevit_xxs": (64, {}),
    "mobilevitv2_050": (64, {}),
    "mvitv2_tiny": (64, {"img_size": 64}),
    "nest_tiny": (224, {}),
    "nf_regnet_b0": (64, {}),
    "eca_nfnet_l0": (64, {}),
    "ecaresnet26t": (64, {}),
    "pit_ti_224": (224, {}),
    "pvt_v2_b0": (64, {}),
    "regnetz_005": (64, {}),
    "repghostnet_050": (64, {}),
    "repvit_m0_9": (64, {}),
    "res2net50_14w_8s": (64, {}),
    "resnest14d": (64, {}),
    "resnet26t": (64, {}),
    "seresnet18": (64, {}),
    "skresnet18": (64, {}),
    "resnetv2_18": (64, {}),
    "rexnet_100": (64, {}),
    "selecsls42": (64, {}),
    "sequencer2d_s": (64, {"img_size": 64, "layers": (1, 1, 1, 1)}),
    "starnet_s1": (64, {}),
    "swiftformer_xs": (224, {}),
    "swin_tiny_patch4_window7_224": (
        112,
        {"img_size": 112, **_STAGES, "embed_dim": 32, "num_heads": (2, 4, 8, 8)},
    ),
    "swinv2_cr_tiny_ns_224": (
        112,
        {"img_size": 112, **_STAGES, "embed_dim": 32, "num_heads": (2, 4, 8, 8)},
    ),
    "tiny_vit_5m_224": (224, {}),
    "tnt_s_legacy_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "twins_svt_small": (64, {"img_size": 64, **_STAGES}),
    "visformer_tiny": (224, {}),
    "vit_tiny_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "vit_relpos_small_patch16_224": (64, {"img_size": 64, "depth": 2}),
    "volo_d1_224": (224, {}),
    "ese_vovnet19b_slim": (64, {}),
    "xcit_nano_12_p16_224": (64, {"img_size": 64, "depth": 2}),
}


def _build(name: str, options: dict[str, Any]) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        import timm

        return timm.create_model(name, num_classes=10, **options)

    return build


MODELS = {
    name: Entry(_build(name, options), image(size)) for name, (size, options) in SIZES.items()
}
