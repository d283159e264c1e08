"""The embedded base model: a Stable-Diffusion-shaped pipeline, v-prediction, trained on scenes."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from studio.pipelines import attention
from studio.pipelines.weights import digest
from studio.precision import halved
from studio.world import concepts, scenes, sprites, words
from studio.world.autoencoder import batch
from studio.world.fit import Fit

MERGES, TOKENS = 6000, 40  # first byte-pair merges kept of CLIP's list; longest prompt
FIRST_SEED = 50_000_000
SHAPES = {  # tier -> UNet widths, text width, text layers
    "small": ((64, 128, 256), 192, 3),
    "full": ((96, 160, 256), 256, 4),
}


def merges(words: set[str]) -> list[str]:
    """CLIP's first merges, and every later one that makes a word of the world a single token; in CLIP's order."""
    import open_clip

    source = Path(open_clip.__file__).with_name("bpe_simple_vocab_16e6.txt.gz")
    rows = gzip.decompress(source.read_bytes()).decode().split("\n")[1:48895]
    maker = {row.replace(" ", ""): i for i, row in reversed(list(enumerate(rows)))}
    kept, wanted = set(range(MERGES)), [f"{word}</w>" for word in words]
    while wanted:
        index = maker.get(wanted.pop())
        if index is not None:
            kept.add(index)
            wanted += rows[index].split()
    return [rows[i] for i in sorted(kept)]


def tokenizer(folder: Path) -> CLIPTokenizer:
    """A CLIP tokenizer with a part of CLIP's own merges: it splits any text, down to bytes."""
    from open_clip.tokenizer import bytes_to_unicode

    words = {w for name in [*concepts.concepts(), *concepts.KINDS, *concepts.BACKGROUNDS] for w in name.split()}
    words |= {w for _, phrases in concepts.STYLES.values() for phrase in phrases for w in phrase.split()}
    chosen, letters = merges(words | {"background", "little", "tiny", "center"}), list(bytes_to_unicode().values())
    vocabulary = letters + [f"{c}</w>" for c in letters] + [row.replace(" ", "") for row in chosen]
    vocabulary += ["<|startoftext|>", "<|endoftext|>"]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(vocabulary)}, ensure_ascii=False))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *chosen]) + "\n")
    return CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=TOKENS)


def scheduler() -> DDIMScheduler:
    """SD's schedule brought to zero terminal SNR: without it a flat background leaks through the last timestep."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
        steps_offset=1,
    )


def pipeline(vae: AutoencoderKL, folder: Path, tier: str) -> StableDiffusionPipeline:
    """The untrained pipeline around a trained autoencoder."""
    widths, width, layers = SHAPES[tier]
    tok = tokenizer(folder / "tokenizer-build")
    text = CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tok),
            hidden_size=width,
            intermediate_size=width * 3,
            num_hidden_layers=layers,
            num_attention_heads=4,
            max_position_embeddings=TOKENS,
            projection_dim=width,
            bos_token_id=tok.bos_token_id,
            eos_token_id=tok.eos_token_id,
            pad_token_id=tok.pad_token_id,
        )
    )
    unet = UNet2DConditionModel(
        sample_size=vae.config.sample_size // 4,
        in_channels=vae.config.latent_channels,
        out_channels=vae.config.latent_channels,
        block_out_channels=widths,
        # no attention at full latent size: on two cores it costs a third of the time and words still reach the rest
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1 if tier == "small" else 2,
        attention_head_dim=4,  # diffusers reads this as the number of heads
        cross_attention_dim=width,
        addition_embed_type="text",  # the whole caption also reaches every block through the time embedding
        addition_embed_type_num_heads=4,
        norm_num_groups=16,
    )
    return StableDiffusionPipeline(
        vae, text, tok, unet, scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False
    )


@torch.no_grad()
def bank(vae: AutoencoderKL, draw: scenes.Draw, folder: Path, kept_in: Path, count: int) -> Tensor:
    """Scaled latents `[count, 8, h, w]` of training scenes, half precision, computed once per encoder and kept."""
    file = kept_in / f"latents-{digest(vae.encoder.state_dict())[:16]}.safetensors"
    if file.exists() and len(kept := load_file(file)["latents"]) == count:
        return kept
    kept_in.mkdir(parents=True, exist_ok=True)
    parts = []
    for first in range(FIRST_SEED, FIRST_SEED + count, 64):
        x = batch(draw, folder, first, min(64, FIRST_SEED + count - first), vae.config.sample_size)
        with halved(vae.device):
            mean = vae.encode(x.to(vae.device)).latent_dist.mean
        parts.append((mean.float() * vae.config.scaling_factor).half().cpu())
        if (first - FIRST_SEED) % 3200 == 0:
            print(f"latents {first - FIRST_SEED}/{count}", flush=True)
    latents = torch.cat(parts).contiguous()
    save_file({"latents": latents}, file)
    return latents


def captions(draw: scenes.Draw, indices: list[int], rng: Random) -> list[str]:
    """A newly worded caption for each scene; one in ten is empty, for classifier-free guidance."""
    texts = [scenes.Writer(draw(FIRST_SEED + i), rng).caption() for i in indices]
    return ["" if rng.random() < 0.1 else text for text in texts]


def batches(draw: scenes.Draw, latents: Tensor, size: int, start: int) -> Iterator[tuple[Tensor, list[str]]]:
    """Endless (latents, captions); batch number n is a function of n alone, so resuming is exact.

    One row in five is a pair: single objects teach the words, pairs how to put them together.
    """
    pairs = [i for i in range(len(latents)) if len(draw(FIRST_SEED + i).objects) == 2]
    single = sorted(set(range(len(latents))) - set(pairs))
    n = start
    while True:
        rng = Random(n)
        indices = [rng.choice(pairs if row % 5 == 0 else single) for row in range(size)]
        yield latents[indices].float(), captions(draw, indices, rng)
        n += 1


def v_loss(pipe: StableDiffusionPipeline, x0: Tensor, prompts: list[str], step: int) -> Tensor:
    """Mean squared error of the velocity, v = sqrt(abar) eps - sqrt(1 - abar) x0, at stratified timesteps.

    The density leans to the noisy end (t = 1000 u^0.7): there it is decided what is drawn, and latents this small lose
    their shapes early.
    """
    gen, size = torch.Generator().manual_seed(step), len(x0)
    t = (((torch.arange(size) + torch.rand(size, generator=gen)) / size) ** 0.7 * 1000).long()
    t = t[torch.randperm(size, generator=gen)]
    eps = torch.randn(x0.shape, generator=gen).to(x0.device)
    abar = pipe.scheduler.alphas_cumprod[t].to(x0.device).view(-1, 1, 1, 1)
    z, v = abar.sqrt() * x0 + (1 - abar).sqrt() * eps, abar.sqrt() * eps - (1 - abar).sqrt() * x0
    ids = pipe.tokenizer(prompts, padding="max_length", truncation=True, max_length=TOKENS, return_tensors="pt")
    with torch.no_grad():
        states = pipe.text_encoder(ids.input_ids.to(x0.device))[0]
    out = pipe.unet(z, t.to(x0.device), states).sample
    return F.mse_loss(out.float(), v)


def train(
    vae: AutoencoderKL,
    work: Path,
    tier: str,
    samples: int,
    device: torch.device,
    sentences: int = 96_000,
    size: int = 32,
    scenes_kept: int = 24_000,
    warm: Path | None = None,
    compiled: bool = False,
) -> StableDiffusionPipeline:
    """Teach the text encoder its words, then train (or go on training) the UNet on `samples` noised scenes.

    warm: an exported pipeline whose weights are the start where there is no training state yet.
    """
    torch.manual_seed(12)
    draw, folder = scenes.Draw(sprites.load(work, tier)), work / f"sprites-{tier}"
    pipe = pipeline(vae.to(device), work / "base", tier).to(device)
    if warm is not None:
        for part in ("unet", "text_encoder"):
            getattr(pipe, part).load_state_dict(load_file(next((warm / part).glob("*.safetensors"))))
    if warm is None:
        share = words.teach(pipe.text_encoder, pipe.tokenizer, draw, work / "words", sentences, device)
        print(f"words: {share:.1%} of what held-out captions state is read back", flush=True)
    latents = bank(vae, draw, folder, work / "base", scenes_kept)
    attention.install(pipe.unet, "auto")
    pipe.unet.to(memory_format=torch.channels_last).train()
    if compiled:
        pipe.unet.compile()
    pipe.text_encoder.eval().requires_grad_(False)
    fit = Fit({"unet": pipe.unet}, work / "base", samples // size, lr=7e-4, warmup=300)
    source = batches(draw, latents, size, fit.step)

    def loss(step: int) -> Tensor:
        x0, prompts = next(source)
        x0 = x0.to(device, memory_format=torch.channels_last)
        with halved(device):
            return v_loss(pipe, x0, prompts, step)

    fit.run(loss)
    fit.use_average()
    pipe.unet.eval()
    return pipe


def export(pipe: StableDiffusionPipeline, folder: Path) -> None:
    """Write the ordinary diffusers layout in half precision."""
    pipe.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    pipe.to(torch.float32)
