"""Our attention on diffusers' networks gives diffusers' own numbers."""

from __future__ import annotations

import copy

import pytest
import torch
from diffusers import AutoencoderKL, SD3Transformer2DModel, UNet2DConditionModel
from diffusers.models.attention_processor import (
    Attention,
    AttnProcessor,
    AttnProcessor2_0,
    FusedAttnProcessor2_0,
)
from peft import LoraConfig
from torch import nn

from studio.kernels.attention import KINDS, probe
from studio.pipelines import attention
from studio.pipelines.errors import UsageError

CHOICES = ["auto", *(kind for kind in KINDS if probe(kind, "cpu", torch.float32).ok)]


def unet(**changes):
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=12,
        attention_head_dim=2,
        norm_num_groups=4,
        **changes,
    ).train()


def sd3(**changes):
    torch.manual_seed(0)
    return SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=12,
        caption_projection_dim=16,
        pooled_projection_dim=10,
        out_channels=4,
        pos_embed_max_size=8,
        **{"qk_norm": "rms_norm", "dual_attention_layers": (0,), **changes},
    ).train()


def call_unet(net):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 8, 8, generator=generator, requires_grad=True)
    text = torch.randn(2, 7, 12, generator=generator, requires_grad=True)
    mask = torch.tensor([[1] * 7, [1] * 4 + [0] * 3])
    out = net(x, torch.tensor([3, 700]), text, encoder_attention_mask=mask).sample
    return out, (x, text)


def call_sd3(net):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(2, 4, 8, 8, generator=generator, requires_grad=True)
    text = torch.randn(2, 5, 12, generator=generator, requires_grad=True)
    pooled = torch.randn(2, 10, generator=generator)
    return net(x, text, pooled, torch.tensor([3, 700])).sample, (x, text)


def numbers(net, call):
    """Output, gradients of the inputs and of every parameter."""
    out, tensors = call(net)
    slope = torch.linspace(-1, 1, out.numel()).view_as(out)
    weights = [p for p in net.parameters() if p.requires_grad]
    grads = torch.autograd.grad(out, (*tensors, *weights), slope, allow_unused=True)
    return [out, *(g for g in grads if g is not None)]


def close(ours, theirs, tolerance=1e-5):
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=tolerance, atol=tolerance * max(1, b.abs().max().item()))


def layers(net):
    return [module for module in net.modules() if isinstance(module, Attention)]


NETS = {
    "unet": (unet, call_unet),
    "sd3": (lambda: sd3(qk_norm=None, dual_attention_layers=()), call_sd3),
    "sd3.5": (sd3, call_sd3),
}


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", NETS)
def test_equals_diffusers_forward_and_backward(name, choice):
    build, call = NETS[name]
    net = build()
    truth = numbers(net, call)
    attention.install(net, choice)
    assert {type(layer.processor) for layer in layers(net)} <= {attention.Plain, attention.Joint}
    assert {layer.processor.choice for layer in layers(net)} == {choice}
    close(numbers(net, call), truth)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("name", NETS)
def test_under_lora_and_gradient_checkpointing(name, choice):
    build, call = NETS[name]
    net = build().requires_grad_(False)
    net.add_adapter(LoraConfig(r=2, init_lora_weights=False, target_modules=["to_q", "to_k", "to_v", "to_out.0"]))
    truth = numbers(net, call)
    net.enable_gradient_checkpointing()
    attention.install(net, choice)
    close(numbers(net, call), truth)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize(
    "options",
    [
        {"norm_num_groups": 4, "residual_connection": True, "rescale_output_factor": 2.0},
        {"cross_attention_dim": 12, "cross_attention_norm": "layer_norm"},
        {
            "cross_attention_dim": 12,
            "cross_attention_norm": "group_norm",
            "cross_attention_norm_num_groups": 4,
        },
        {"qk_norm": "layer_norm", "bias": True},
        {"qk_norm": "rms_norm", "upcast_attention": True, "upcast_softmax": True},
        {"scale_qk": False},
        {"spatial_norm_dim": 4},
    ],
    ids=lambda options: " ".join(options),
)
@pytest.mark.parametrize("square", [False, True])
def test_every_option_of_the_layer(options, choice, square):
    torch.manual_seed(0)
    width = 32 if "spatial_norm_dim" in options else 16
    layer = Attention(width, heads=2, dim_head=8, **options)
    stock = AttnProcessor() if layer.scale == 1.0 else AttnProcessor2_0()
    layer.set_processor(stock)
    x = torch.randn(2, width, 4, 4) if square or "spatial_norm_dim" in options else torch.randn(2, 16, width)
    text = torch.randn(2, 5, 12) if "cross_attention_dim" in options else None
    extra = {"temb": torch.randn(2, 4, 4, 4)} if "spatial_norm_dim" in options else {}
    truth = layer(x, text, **extra)
    attention.install(layer, choice)
    torch.testing.assert_close(layer(x, text, **extra), truth, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("shape", [(2, 1, 5), (2, 3, 5), (4, 3, 5), (4, 1, 5)])
def test_masks_of_every_shape_diffusers_takes(choice, shape):
    torch.manual_seed(0)
    layer = Attention(16, cross_attention_dim=12, heads=2, dim_head=8)
    x, text, mask = torch.randn(2, 3, 16), torch.randn(2, 5, 12), torch.randn(shape)
    truth = layer(x, text, attention_mask=mask)
    attention.install(layer, choice)
    torch.testing.assert_close(layer(x, text, attention_mask=mask), truth, rtol=1e-5, atol=1e-5)


def test_a_flat_mask_is_over_the_keys():
    torch.manual_seed(0)
    layer = Attention(16, cross_attention_dim=12, heads=2, dim_head=8)
    x, text = torch.randn(2, 3, 16), torch.randn(2, 5, 12)
    attention.install(layer)
    seen = torch.tensor([[True] * 3 + [False] * 2] * 2)
    torch.testing.assert_close(layer(x, text, attention_mask=seen), layer(x, text[:, :3]))


def test_joint_attention_masks_all_tokens():
    net = sd3()
    attention.install(net)
    layer = net.transformer_blocks[0].attn
    x, text = torch.randn(2, 6, 16), torch.randn(2, 5, 16)
    seen = torch.ones(2, 11, dtype=torch.bool)
    seen[:, 8:] = False  # the last three text tokens
    picture, _ = layer(x, text, attention_mask=seen)
    torch.testing.assert_close(picture, layer(x, text[:, :2])[0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", NETS)
def test_installing_twice_is_installing_the_last(name):
    net, (_, call) = NETS[name][0](), NETS[name]
    attention.install(net, "chunked")
    attention.install(net, "matmul")
    assert {layer.processor.choice for layer in layers(net)} == {"matmul"}
    assert call(copy.deepcopy(net))[0].isfinite().all()


def test_under_autocast_the_parts_agree():
    build, call = NETS["sd3.5"]
    net = build()
    outs = []
    for choice in CHOICES:
        attention.install(net, choice)
        with torch.autocast("cpu", torch.bfloat16):
            outs.append(numbers(net, call)[0].float())
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=0.05, atol=0.05)


def test_autoencoder_too():
    torch.manual_seed(0)
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4, layers_per_block=1).eval()
    x = torch.randn(1, 3, 8, 8)
    truth = vae(x).sample
    attention.install(vae, "chunked")
    torch.testing.assert_close(vae(x).sample, truth, rtol=1e-5, atol=1e-5)


def test_networks_without_attention_are_left_alone():
    net = nn.Sequential(nn.Linear(2, 2), nn.SiLU())
    before = copy.deepcopy(net.state_dict())
    assert attention.install(net) is None
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())


def test_foreign_processors_stay_under_auto_and_refuse_a_name():
    net = unet()
    layer = layers(net)[0]
    layer.set_processor(FusedAttnProcessor2_0())
    attention.install(net)
    assert isinstance(layer.processor, FusedAttnProcessor2_0)
    with pytest.raises(UsageError, match=r"matmul.*FusedAttnProcessor2_0.*auto"):
        attention.install(net, "matmul")


@pytest.mark.skipif("xformers" in CHOICES, reason="xformers answers here")
def test_what_does_not_work_is_said_at_once():
    with pytest.raises(UsageError, match="xformers.*cpu.*float32"):
        attention.install(unet(), "xformers")


def test_unknown_choice():
    with pytest.raises(UsageError, match="'fast'.*auto, sdpa, matmul, chunked, xformers"):
        attention.install(unet(), "fast")


def test_processors_are_made_without_arguments():
    """diffusers' IP-Adapter loader copies processors as `type(processor)()`."""
    assert attention.Plain() == attention.Plain("auto")
    assert attention.Joint().choice == "auto"
