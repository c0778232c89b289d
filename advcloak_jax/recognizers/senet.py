"""SE-ResNet-50-IR: the improved residual network with squeeze-excitation in every unit."""

from advcloak_jax.recognizers.iresnet import IResNet


class SENet(IResNet):
    """`IResNet` whose units reweight their channels (reduction 16) before the shortcut is added."""

    reduction: int | None = 16
