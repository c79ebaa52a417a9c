"""Encoder and decoder: shapes, every option, and what their start must look like."""

import pytest
import torch
import torch.nn.functional as F

from vaevq.config import AutoencoderConfig, Normalization
from vaevq.nn.autoencoder import Decoder, DepthToSpace, Encoder, ResBlock, SelfAttention
from vaevq.nn.normalization import ModulatedNorm, group_norm, normalization


def small(**options: object) -> AutoencoderConfig:
    return AutoencoderConfig(**{"base_width": 8, "multipliers": (1, 2, 3), "blocks": 1, **options})


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"image_channels": 1},
        {"image_channels": 4, "upsampling": "nearest"},
        {"attention_levels": (1, 2)},
        {"decoder_width": 16, "blocks": 2},
        {"multipliers": (2,)},
        {"base_width": 24, "multipliers": (1, 5)},
        {"patch_size": 3, "multipliers": (1, 2), "image_channels": 2},
        {"modulated": True, "attention_levels": (2,)},
        {"modulated": True, "patch_size": 2, "upsampling": "nearest"},
    ],
)
def test_shapes_follow_the_configuration_and_every_parameter_learns(options: dict[str, object]) -> None:
    config = small(**options)
    f = config.downsample_factor
    encoder, decoder = Encoder(config), Decoder(config, 5)
    images = torch.randn(2, config.image_channels, 3 * f, 2 * f)
    features = encoder(images)
    assert features.shape == (2, encoder.out_channels, 3, 2)
    assert encoder.out_channels == config.base_width * config.multipliers[-1]
    reconstruction = decoder(torch.randn(2, 5, 3, 2))
    assert reconstruction.shape == images.shape
    (features.square().sum() + reconstruction.square().sum()).backward()
    silent = [
        name
        for network in (encoder, decoder)
        for name, p in network.named_parameters()
        if p.grad is None or not p.grad.any()
    ]
    assert silent == []


def test_released_shape_has_the_expected_number_of_parameters() -> None:
    config = AutoencoderConfig(base_width=128, decoder_width=64, multipliers=(1, 2, 2, 4), blocks=2)
    with torch.device("meta"):
        encoder, decoder = Encoder(config), Decoder(config, 64)

    def conv(inputs: int, outputs: int, size: int = 3) -> int:
        return inputs * outputs * size * size + outputs

    def block(inputs: int, outputs: int) -> int:
        shortcut = 0 if inputs == outputs else conv(inputs, outputs, 1)
        return 2 * inputs + conv(inputs, outputs) + 2 * outputs + conv(outputs, outputs) + shortcut

    expected_encoder = (
        conv(3, 128)
        + 2 * block(128, 128)
        + conv(128, 128)
        + block(128, 256)
        + block(256, 256)
        + conv(256, 256)
        + 2 * block(256, 256)
        + conv(256, 256)
        + block(256, 512)
        + block(512, 512)
        + 2 * block(512, 512)
        + 2 * 512
    )
    expected_decoder = (
        conv(64, 256)
        + 2 * block(256, 256)
        + 3 * block(256, 256)
        + conv(256, 4 * 256)
        + block(256, 128)
        + 2 * block(128, 128)
        + conv(128, 4 * 128)
        + 3 * block(128, 128)
        + conv(128, 4 * 128)
        + block(128, 64)
        + 2 * block(64, 64)
        + 2 * 64
        + conv(64, 3)
    )
    assert sum(p.numel() for p in encoder.parameters()) == expected_encoder
    assert sum(p.numel() for p in decoder.parameters()) == expected_decoder


@pytest.mark.parametrize("width", [8, 11, 16, 24, 40, 64, 128, 320])
def test_group_norm_divides_every_width_and_keeps_two_channels_a_group(width: int) -> None:
    norm = group_norm(width)
    assert norm.num_groups <= 32
    assert width // norm.num_groups >= 2
    assert norm(torch.randn(2, width, 3, 3)).shape == (2, width, 3, 3)
    assert group_norm(128).num_groups == 32


def test_without_normalization_blocks_start_as_their_shortcut_and_learn_from_the_second_step_on() -> None:
    torch.manual_seed(0)
    block, x = ResBlock(8, 8, "none"), torch.randn(2, 8, 4, 4)
    assert torch.equal(block(x), x)
    optimizer = torch.optim.SGD(block.parameters(), lr=0.1)
    for _ in range(2):
        optimizer.zero_grad()
        block(x).square().mean().backward()
        optimizer.step()
    assert all(p.grad.any() for p in block.parameters())


@pytest.mark.parametrize(("kind", "is_local"), [("none", True), ("group", False)])
def test_without_normalization_features_are_of_their_neighbourhood_alone(kind: Normalization, is_local: bool) -> None:
    torch.manual_seed(0)
    encoder = Encoder(small(multipliers=(1,), normalization=kind))
    one = torch.randn(1, 3, 8, 64)
    other = one.clone()
    other[..., 48:] = torch.randn(1, 3, 8, 16)
    near = encoder(one)[..., :16] - encoder(other)[..., :16]
    assert (near.abs().max() == 0) == is_local


def modulation(decoder: Decoder) -> list[ModulatedNorm]:
    return [module for module in decoder.modules() if isinstance(module, ModulatedNorm)]


@pytest.mark.parametrize("kind", ["group", "none"])
def test_a_modulated_decoder_starts_as_the_plain_one_of_its_seed(kind: Normalization) -> None:
    decoders = []
    for modulated in (False, True):
        torch.manual_seed(0)
        config = small(normalization=kind, modulated=modulated, attention_levels=(1,))
        Encoder(config)
        decoders.append(Decoder(config, 5))
    plain, decoder = decoders
    latent = torch.randn(2, 5, 3, 2)
    assert torch.equal(decoder(latent), plain(latent))
    norms = [name for name, _ in plain.named_modules() if name.rpartition(".")[2].startswith("norm")]
    assert len(modulation(decoder)) == len(norms) > 10, "all of them"
    with torch.no_grad():
        for norm in modulation(decoder):
            norm.shift.weight.normal_()
    assert not torch.allclose(decoder(latent), plain(latent), atol=1e-2)


@pytest.mark.parametrize("kind", ["group", "none"])
def test_modulation_is_the_published_formula_on_the_latent_resized_to_the_layers_grid(kind: Normalization) -> None:
    norm = normalization(kind, 8, 5)
    for parameter in norm.parameters():
        torch.nn.init.normal_(parameter)
    x, latent = torch.randn(2, 8, 12, 8), torch.randn(2, 5, 3, 2)
    resized = latent.repeat_interleave(4, dim=-2).repeat_interleave(4, dim=-1)
    normed = norm.norm(x) if kind == "group" else x
    assert torch.allclose(norm(x, latent), normed * norm.scale(resized) + norm.shift(resized), atol=1e-5)


def test_modulation_is_of_the_latent_of_its_own_place() -> None:
    torch.manual_seed(0)
    decoder = Decoder(small(normalization="none", modulated=True, multipliers=(1, 1)), 4)
    with torch.no_grad():
        for norm in modulation(decoder):
            norm.scale.weight.normal_()
            norm.shift.weight.normal_()
    latent = torch.randn(1, 4, 40, 3)
    moved = latent.clone()
    moved[:, :, 0] += 1.0
    changed = (decoder(latent) - decoder(moved)).abs().amax(dim=(0, 1, 3))
    assert changed[0] > 1e-3
    assert not changed[-20:].any()


def test_without_the_option_nothing_of_it_is_in_weights_or_configuration() -> None:
    plain, modulated = AutoencoderConfig(), AutoencoderConfig(modulated=True)
    assert "modulated" not in plain.model_dump_json()
    assert AutoencoderConfig.model_validate_json(modulated.model_dump_json()) == modulated
    assert not any("scale" in name for name in Decoder(small(), 5).state_dict())


def test_attention_is_where_the_configuration_says() -> None:
    def count(network: torch.nn.Module) -> int:
        return sum(isinstance(m, SelfAttention) for m in network.modules())

    inner, last = small(blocks=2, attention_levels=(1,)), small(blocks=2, attention_levels=(2,))
    assert (count(Encoder(inner)), count(Decoder(inner, 4))) == (2, 3)
    assert (count(Encoder(last)), count(Decoder(last, 4))) == (3, 4)  # and once in the middle block


def test_attention_equals_its_formula() -> None:
    torch.manual_seed(0)
    layer, x = SelfAttention(8, "group").double(), torch.randn(2, 8, 3, 4, dtype=torch.float64)
    query, key, value = layer.query_key_value(layer.norm(x)).flatten(2).chunk(3, dim=1)
    weights = (query.transpose(1, 2) @ key / 8**0.5).softmax(dim=-1)
    attended = (weights @ value.transpose(1, 2)).transpose(1, 2).reshape(x.shape)
    torch.testing.assert_close(layer(x), x + layer.out(attended), rtol=0, atol=1e-12)


def test_depth_to_space_starts_as_nearest_upsampling() -> None:
    torch.manual_seed(0)
    layer, x = DepthToSpace(8), torch.randn(2, 8, 5, 4)
    half = F.conv2d(x, layer.conv.weight[::4], layer.conv.bias[::4], padding=1)
    torch.testing.assert_close(layer(x), half.repeat_interleave(2, 2).repeat_interleave(2, 3))
    assert half.std() > 0.1


@pytest.mark.parametrize("shape", [{"multipliers": (1, 2)}, {"multipliers": (2,), "patch_size": 2}])
def test_untrained_decoder_shows_no_checkerboard(shape: dict[str, object]) -> None:
    torch.manual_seed(0)
    decoder = Decoder(small(base_width=16, **shape), 4)
    whole = decoder(torch.randn(1, 4, 1, 1).expand(1, 4, 36, 36))
    inner = whole[..., 28:-28, 28:-28]  # out of reach of the zero padding at the border
    assert inner.shape[-1] == 16
    assert inner.std(dim=(-2, -1)).max() < 1e-5


def test_patches_hold_every_pixel_where_it_was() -> None:
    encoder, images = Encoder(small(patch_size=4, multipliers=(1,))), torch.randn(1, 3, 8, 12)
    seen = []
    encoder.conv_in.register_forward_hook(lambda module, args, output: seen.append(args[0]))
    encoder(images)
    (patches,) = seen
    assert patches.shape == (1, 3 * 16, 2, 3)
    assert torch.equal(patches[0, :, 1, 2].view(3, 4, 4), images[0, :, 4:8, 8:12])
    assert torch.equal(F.pixel_shuffle(patches, 4), images)


def test_networks_are_smooth_functions_in_float64() -> None:
    torch.manual_seed(0)
    config = small(multipliers=(1, 2), attention_levels=(1,))
    encoder, decoder = Encoder(config).double(), Decoder(config, 3).double()
    images = torch.randn(1, 3, 4, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: decoder(encoder(x)[:, :3]), images, fast_mode=True)


@pytest.mark.parametrize("modulated", [False, True])
def test_gradient_checkpointing_changes_memory_only(modulated: bool) -> None:
    torch.manual_seed(0)
    config = small(attention_levels=(2,), modulated=modulated)
    encoder, decoder = Encoder(config).double(), Decoder(config, encoder_width(config)).double()
    images = torch.randn(2, 3, 16, 8, dtype=torch.float64)

    def gradients() -> list[torch.Tensor]:
        parameters = [*encoder.parameters(), *decoder.parameters()]
        return list(torch.autograd.grad(decoder(encoder(images)).square().mean(), parameters))

    def kept_bytes() -> int:
        kept = 0

        def count(tensor: torch.Tensor) -> torch.Tensor:
            nonlocal kept
            kept += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(count, lambda tensor: tensor):
            decoder(encoder(images))
        return kept

    plain, plain_bytes = gradients(), kept_bytes()
    encoder.gradient_checkpointing = decoder.gradient_checkpointing = True
    for a, b in zip(plain, gradients(), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
    assert kept_bytes() < plain_bytes / 2
    encoder.eval(), decoder.eval()
    assert kept_bytes() > plain_bytes / 2  # only training recomputes


def encoder_width(config: AutoencoderConfig) -> int:
    return config.base_width * config.multipliers[-1]


def test_last_layer_is_the_weight_of_the_final_convolution() -> None:
    decoder = Decoder(small(), 4)
    assert decoder.last_layer is decoder.conv_out.weight
    assert decoder.last_layer.shape == (3, 8, 3, 3)
