"""The models against the published figures, hand arithmetic and hand-written forward passes."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from core.models import MODELS, ImageClassifier, build_model
from core.models.batchnorm import set_batchnorm
from core.models.preact_resnet import PreActBlock, PreActResNet
from core.models.resnet import Bottleneck, ResNet
from core.models.wide_resnet import WideResNet

# The smallest image; a width narrow enough for a CPU (widen_factor 10 multiplies); the published
# width and its D.
FACTS = {
    "cnn": (4, 4, 32, 512),
    "cnn_2d": (4, 4, 32, 2),
    "digits_cnn": (2, 4, 16, 64),
    "cnn_smooth": (4, 4, 32, 512),
    "digits_cnn_smooth": (2, 4, 16, 64),
    "preact_resnet18": (8, 4, 64, 512),
    "preact_resnet34": (8, 4, 64, 512),
    "wrn_28_10": (4, 1, 16, 640),
    "wrn_28_2": (4, 2, 16, 128),
    "wrn_28_2_leaky": (4, 2, 16, 128),
    "resnet50": (8, 2, 64, 2048),
}
WITH_BATCHNORM = [name for name in MODELS if "cnn" not in name]


def narrow(
    name: str, in_channels: int = 3, num_classes: int = 10, image_size: int = 16, seed: int = 0
) -> ImageClassifier:
    torch.manual_seed(seed)
    sizes = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    return build_model(name, width=FACTS[name][1], **sizes)


def images(batch: int, channels: int, size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(batch, channels, size, size, generator=generator, dtype=dtype)


# Parameter counts, as published.


@pytest.mark.parametrize(
    ("name", "c", "size", "parameters"),
    [
        ("preact_resnet18", 3, 32, 11_171_146),  # pytorch-cifar's model, without the final BN
        ("preact_resnet34", 3, 32, 21_279_306),  # the same
        ("wrn_28_10", 3, 32, 36_479_194),  # Zagoruyko and Komodakis: 36.5M
        ("wrn_28_2", 3, 32, 1_467_610),  # Oliver et al. and MixMatch: 1.5M
        ("wrn_28_2_leaky", 3, 32, 1_467_610),
        ("resnet50", 3, 32, 23_520_842),  # pytorch-cifar's model
        ("cnn", 1, 28, 836_522),
        ("cnn_2d", 1, 28, 832_448),
        ("cnn_smooth", 1, 28, 836_522),
        ("digits_cnn", 1, 8, 38_282),
        ("digits_cnn_smooth", 1, 8, 38_282),
    ],
)
def test_parameters_are_the_published_ones(name: str, c: int, size: int, parameters: int) -> None:
    with torch.device("meta"):
        model = build_model(name, in_channels=c, num_classes=10, image_size=size)
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


# Shapes and the interface.


@pytest.mark.parametrize(("c", "size", "classes"), [(1, 8, 10), (4, 30, 100)])
@pytest.mark.parametrize("name", MODELS)
def test_shapes_and_the_cut_before_the_classifier(
    name: str, c: int, size: int, classes: int
) -> None:
    model = narrow(name, c, classes, size).eval()
    x = images(2, c, size)
    with torch.no_grad():
        features = model.features(x)
        logits = model(x)
    assert features.shape == (2, model.classifier.in_features)
    assert logits.shape == (2, classes)
    assert torch.equal(logits, model.classifier(features))


@pytest.mark.parametrize("name", MODELS)
def test_the_smallest_image_works_and_one_pixel_less_is_refused(name: str) -> None:
    size = FACTS[name][0]
    assert narrow(name, 1, 2, size).eval()(images(1, 1, size)).shape == (1, 2)
    with pytest.raises(ValueError, match=f"at least {size} pixels .* got {size - 1}"):
        narrow(name, 1, 2, size - 1)


@pytest.mark.parametrize("name", WITH_BATCHNORM)
def test_without_a_fixed_hidden_layer_any_input_size_works(name: str) -> None:
    model = narrow(name, 3, 10, 32).eval()
    with torch.no_grad():
        assert model(images(1, 3, 17)).shape == (1, 10)


@pytest.mark.parametrize("name", ["cnn", "cnn_2d", "digits_cnn"])
def test_the_cnns_name_the_size_they_were_built_for(name: str) -> None:
    with pytest.raises(ValueError, match=r"built for images of 8x8 pixels, got 16x16"):
        narrow(name, 1, 10, 8)(images(1, 1, 16))


@pytest.mark.parametrize("name", MODELS)
def test_a_batch_of_one_trains(name: str) -> None:
    assert torch.isfinite(narrow(name, 3, 10, 12)(images(1, 3, 12))).all()


def test_width_sets_the_first_convolution_and_scales_the_features() -> None:
    assert set(FACTS) == set(MODELS)
    for name, (_, _, width, size) in FACTS.items():
        for chosen, factor in ((None, 1), (width, 1), (2 * width, 2)):
            with torch.device("meta"):
                model = build_model(
                    name, in_channels=3, num_classes=10, image_size=32, width=chosen
                )
            stem = next(layer for layer in model.modules() if isinstance(layer, nn.Conv2d))
            assert stem.out_channels == factor * width
            assert model.classifier.in_features == (2 if name == "cnn_2d" else factor * size)


# Errors.


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="unknown model 'resnet51'") as error:
        build_model("resnet51", in_channels=3, num_classes=10, image_size=32)
    assert all(name in str(error.value) for name in MODELS)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"in_channels": 0}, "in_channels must be at least 1, got 0"),
        ({"num_classes": 1}, "num_classes must be at least 2, got 1"),
        ({"width": 0}, "width must be at least 1, got 0"),
        ({"image_size": 0}, "image_size must be at least"),
    ],
)
@pytest.mark.parametrize("name", MODELS)
def test_numbers_below_their_limit(name: str, change: dict[str, int], message: str) -> None:
    arguments = {"in_channels": 3, "num_classes": 10, "image_size": 32, **change}
    with pytest.raises(ValueError, match=message):
        build_model(name, **arguments)


def test_a_wide_resnet_of_impossible_depth() -> None:
    with pytest.raises(ValueError, match=r"depth must be 6n \+ 4 .* got 29"):
        WideResNet(3, 10, 32, depth=29, widen_factor=2)


# Forward passes written by hand.


def bn_relu(x: Tensor, layer: nn.BatchNorm2d, slope: float = 0.0) -> Tensor:
    """Batch statistics by the definition of BatchNorm, then (leaky) ReLU."""
    mean = x.mean(dim=(0, 2, 3), keepdim=True)
    variance = ((x - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
    normal = (x - mean) / torch.sqrt(variance + layer.eps)
    y = normal * layer.weight.view(1, -1, 1, 1) + layer.bias.view(1, -1, 1, 1)
    return torch.where(y > 0, y, slope * y)


def randomise_batchnorm(module: nn.Module) -> None:
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.uniform_(layer.bias, -0.5, 0.5)


def test_cnn_is_the_network_of_the_adamixup_code() -> None:
    model = narrow("cnn", 1, 10, 13).double().eval()
    w = list(model.parameters())
    x = images(3, 1, 13, torch.float64)
    h = F.relu(F.conv2d(x, w[0], w[1], padding=1))
    h = F.max_pool2d(h, 2)
    h = F.relu(F.conv2d(h, w[2], w[3], padding=1))
    h = F.relu(F.conv2d(h, w[4], w[5], padding=1))
    h = F.max_pool2d(h, 2)
    h = F.relu(F.conv2d(h, w[6], w[7], padding=1))
    h = F.relu(h.reshape(3, -1) @ w[8].T + w[9])
    torch.testing.assert_close(model(x), h @ w[10].T + w[11])


def test_dropout_of_the_cnn_is_in_the_features_and_off_in_evaluation() -> None:
    model = narrow("cnn", 1, 10, 8)
    x = images(64, 1, 8)
    evaluated = model.eval().features(x)
    trained = model.train().features(x)
    there = trained != 0
    torch.testing.assert_close(trained[there], 2 * evaluated[there])
    share = there.sum() / (evaluated != 0).sum()
    assert 0.45 < share < 0.55


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("channels", [(4, 4), (4, 6)])
@pytest.mark.parametrize("slope", [0.0, 0.1])
def test_preactivation_blocks(slope: float, channels: tuple[int, int], stride: int) -> None:
    torch.manual_seed(0)
    block = PreActBlock(*channels, stride, slope).double()
    randomise_batchnorm(block)
    x = images(5, 4, 7, torch.float64)
    activated = bn_relu(x, block.bn1, slope)
    h = F.conv2d(activated, block.conv1.weight, stride=stride, padding=1)
    h = F.conv2d(bn_relu(h, block.bn2, slope), block.conv2.weight, padding=1)
    if block.shortcut is None:
        assert stride == 1
        assert channels == (4, 4)
        expected = x + h
    else:
        expected = F.conv2d(activated, block.shortcut.weight, stride=stride) + h
    torch.testing.assert_close(block(x), expected)


@pytest.mark.parametrize(("i", "stride"), [(4, 1), (16, 1), (16, 2)])
def test_bottleneck(i: int, stride: int) -> None:
    torch.manual_seed(0)
    block = Bottleneck(i, 4, stride).double()
    randomise_batchnorm(block)
    x = images(5, i, 7, torch.float64)

    def plain_bn(h: Tensor, layer: nn.BatchNorm2d) -> Tensor:
        return bn_relu(h, layer, slope=1.0)

    h = bn_relu(F.conv2d(x, block.conv1.weight), block.bn1)
    h = bn_relu(F.conv2d(h, block.conv2.weight, stride=stride, padding=1), block.bn2)
    h = plain_bn(F.conv2d(h, block.conv3.weight), block.bn3)
    shortcut = x
    if block.shortcut is not None:
        projection, norm = block.shortcut
        assert isinstance(projection, nn.Conv2d)
        assert isinstance(norm, nn.BatchNorm2d)
        shortcut = plain_bn(F.conv2d(x, projection.weight, stride=stride), norm)
    else:
        assert (i, stride) == (16, 1)
    torch.testing.assert_close(block(x), F.relu(shortcut + h))


@pytest.mark.parametrize("name", MODELS)
def test_strides_and_what_precedes_the_pooling(name: str) -> None:
    """Four stages end at an eighth of the size, three groups at a quarter, ReLU'd or not."""
    model = narrow(name, 3, 10, 32).eval()
    maps: list[Tensor] = []
    last = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)][-1]
    last.register_forward_hook(lambda _module, _inputs, output: maps.append(output))
    features = model.features(images(4, 3, 32))
    stages = {PreActResNet: 4, WideResNet: 8, ResNet: 4}
    if type(model) in stages:
        assert maps[0].shape[-1] == stages[type(model)]
    # No final BN-ReLU in the PreActResNets, nor an activation before the plane; LeakyReLU and GELU
    # let negative values through.
    unrectified = ("preact_resnet18", "preact_resnet34", "wrn_28_2_leaky", "cnn_2d")
    signed = name in unrectified or "smooth" in name
    assert bool((features < 0).any()) == signed


@pytest.mark.parametrize(
    ("name", "window", "slope"),
    [
        ("preact_resnet18", 4, 1.0),  # slope 1: no activation
        ("wrn_28_2", 8, 0.0),
        ("wrn_28_2_leaky", 8, 0.1),
        ("resnet50", 4, 0.0),
    ],
)
def test_features_are_the_sources_fixed_average_pooling_at_32_pixels(
    name: str, window: int, slope: float
) -> None:
    model = narrow(name, 3, 10, 32).eval()
    trunk = model.get_submodule("trunk")
    x = images(2, 3, 32)
    with torch.no_grad():
        maps = trunk(x)
        pooled = F.avg_pool2d(torch.where(maps > 0, maps, slope * maps), window)
        torch.testing.assert_close(model.features(x), pooled.flatten(1))


def test_the_leaky_wide_resnet_differs_in_the_activation_alone() -> None:
    plain, leaky = narrow("wrn_28_2").eval(), narrow("wrn_28_2_leaky", seed=1).eval()
    leaky.load_state_dict(plain.state_dict())
    x = images(2, 3, 16)
    assert not torch.allclose(plain(x), leaky(x))
    for module in leaky.modules():
        if isinstance(module, WideResNet | PreActBlock):
            assert module.negative_slope == 0.1
            module.negative_slope = 0.0
    assert torch.equal(plain(x), leaky(x))


# Initialization.


@pytest.mark.parametrize("name", ["wrn_28_2", "resnet50"])
def test_he_initialisation_of_the_convolutions(name: str) -> None:
    torch.manual_seed(0)
    model = build_model(name, in_channels=3, num_classes=10, image_size=32, width=16)
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d) and layer.weight.numel() > 4000:
            fan_out = layer.out_channels * layer.kernel_size[0] ** 2
            torch.testing.assert_close(
                layer.weight.std().item(), math.sqrt(2 / fan_out), rtol=0.05, atol=0.0
            )


def test_the_cnn_starts_undecided_as_in_the_adamixup_code() -> None:
    torch.manual_seed(0)
    model = build_model("cnn", in_channels=1, num_classes=10, image_size=28).eval()
    second = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)][1]
    assert second.weight.std().item() == pytest.approx(math.sqrt(2 / (32 * 9)), rel=0.05)
    assert model.classifier.weight.std().item() == pytest.approx(1e-3, rel=0.05)
    probabilities = model(images(8, 1, 28)).softmax(dim=1)
    torch.testing.assert_close(probabilities, torch.full((8, 10), 0.1), atol=0.02, rtol=0.0)


# What the hypergradient needs.


@pytest.mark.parametrize("name", MODELS)
def test_nothing_works_in_place(name: str) -> None:
    """Outputs that a hook has kept are what they were, and full backward hooks are allowed."""
    model = narrow(name, 3, 10, 9)
    collected: list[tuple[Tensor, int]] = []
    seen: list[nn.Module] = []

    def keep(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        collected.extend((tensor, tensor._version) for tensor in (*inputs, output))

    for module in model.modules():
        module.register_forward_hook(keep)
        module.register_full_backward_hook(lambda m, _grad_in, _grad_out: seen.append(m))
    model(images(4, 3, 9).requires_grad_()).sum().backward()
    assert all(tensor._version == version for tensor, version in collected)
    assert len(seen) == len(list(model.modules()))


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_is_trained(name: str) -> None:
    model = narrow(name)
    F.cross_entropy(model(images(8, 3, 16)), torch.arange(8)).backward()
    for key, parameter in model.named_parameters():
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key


def test_the_plane_starts_with_logits_that_are_neither_flat_nor_steep() -> None:
    """He's weights of the classifier let some trainings die, and 1e-3 gives no gradient."""
    torch.manual_seed(0)
    model = build_model("cnn_2d", in_channels=1, num_classes=1000, image_size=14)
    assert model.classifier.weight.std().item() == pytest.approx(0.1, rel=0.1)
    assert not model.classifier.bias.any()


def test_batchnorm_takes_momentum_and_eps() -> None:
    """Running statistics after one batch and the output by hand."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    set_batchnorm(model, 0.25, 0.5)
    x = torch.tensor([[1.0, -2.0], [3.0, 0.0], [2.0, 5.0]])
    h = model[0](x)
    expected = (h - h.mean(0)) / (h.var(0, unbiased=False) + 0.5).sqrt()
    torch.testing.assert_close(model(x), expected)
    torch.testing.assert_close(model[1].running_mean, 0.25 * h.mean(0))
    set_batchnorm(model)
    assert (model[1].momentum, model[1].eps) == (0.25, 0.5)
    with pytest.raises(ValueError, match="no use in a model without BatchNorm; leave them out"):
        set_batchnorm(nn.Linear(2, 2), eps=0.1)
