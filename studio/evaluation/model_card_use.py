"""How an adapter is loaded in diffusers, under which name its base model is known, and that model's licence."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from studio.evaluation.page_private import said
from studio.evaluation.records import Evaluation, Source
from studio.pipelines.drawing import CALLS, FEW, FEW_STEP, SCHEDULERS, Drawing
from studio.pipelines.licence import stated

HUB = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
OWN = {"embedded": "the model that comes with the studio", "toy": "the studio's two-dimensional test model"}
WHERE = ['device, dtype = ("cuda", torch.float16) if torch.cuda.is_available() else ("cpu", torch.float32)']
RAIL, PLUS = {"license": "creativeml-openrail-m"}, {"license": "openrail++"}
LICENCES = (  # of published base models, as their cards state them
    (r"stable-diffusion-v1|stable-diffusion-v1-5/|runwayml/|compvis/stable-diffusion", RAIL),
    (r"stabilityai/stable-diffusion-2|stabilityai/stable-diffusion-xl-base", PLUS),
    (r"stabilityai/stable-diffusion-3", {"license": "other", "license_name": "stabilityai-ai-community"}),
    (r"black-forest-labs/flux\.1-schnell", {"license": "apache-2.0"}),
    (r"black-forest-labs/flux\.1-dev", {"license": "other", "license_name": "flux-1-dev-non-commercial-license"}),
)


def model_name(model: str) -> str:
    """A hub id as it is; of a path only its last part."""
    local = Path(model).expanduser()
    if HUB.fullmatch(model) and not model.startswith(".") and not local.exists():
        return model
    parts = [part for part in re.split(r"[/\\]", model) if part not in ("", "~", ".", "..")]
    return " ".join(parts[-1].split()) if parts else "unknown"


def licence(model: str) -> dict[str, str]:
    """The base model's licence in the hub's words; {} where it is not known."""
    if found := stated(model):
        return found
    name = model_name(model).lower()
    return next((dict(found) for pattern, found in LICENCES if "/" in name and re.match(pattern, name)), {})


def loading(source: Source, evaluation: Evaluation) -> str:
    """A program that draws with the adapter."""
    name = Path(source.file).name or "adapter.safetensors"
    prompt = next((m.prompt for m in evaluation.pictures if m.source == source.label and m.set != "class"), "")
    prompt = said(prompt) or " ".join(filter(None, ("a", source.trigger, source.class_word)))
    if source.model == "toy":
        return f"`toy` is {OWN['toy']}; only the studio draws with it:\n\n" + block(
            f"studio sample {name} --prompt {text(prompt)}", "bash"
        )
    settings = drawn(source, evaluation)
    steps, guidance, sampler = (settings.get(key) for key in ("steps", "guidance_scale", "sampler"))
    options = [f"num_inference_steps={steps}"] if isinstance(steps, int) else []
    options += [f"guidance_scale={guidance:g}"] if isinstance(guidance, (int, float)) else []
    options += [f"{key}={value:g}" for key, value in CALLS.get(str(sampler), {}).items()]
    call = ", ".join([text(prompt), *options])
    rows = [
        *loader(source.model),
        *scheduler(str(sampler)),
        f'pipe.load_lora_weights(".", weight_name={text(name)}, adapter_name="subject")',
        f'pipe.set_adapters("subject", {source.strength:g})  # strength',
        f"picture = pipe({call}).images[0]",
    ]
    before = f"`embedded` is {OWN['embedded']}: `pip install personalization-studio`.\n\n" * (
        source.model == "embedded"
    )
    before += made_for(source, evaluation)
    return before + block("\n".join(rows), "python")


def drawn(source: Source, evaluation: Evaluation) -> Mapping[str, Any]:
    """Sampler, steps and guidance of a source's pictures, as far as the evaluation says them."""
    each = evaluation.settings.get("drawn")
    found = each.get(source.label) if isinstance(each, Mapping) else None
    return found if isinstance(found, Mapping) else evaluation.settings


def made_for(source: Source, evaluation: Evaluation) -> str:
    """A sentence for an adapter that draws in few steps; "" for any other."""
    told = drawn(source, evaluation)
    if told.get("sampler") not in FEW_STEP:
        return ""
    said = Drawing(*(told.get(key, value) for key, value in vars(FEW).items())).said()
    name = SCHEDULERS.get(str(told["sampler"]), "")
    where = f"diffusers' `{name}`" if name else "no scheduler of diffusers does the same: `studio sample` draws with it"
    return f"It draws in few steps: {said} ({where}). With other samplers, or more guidance, pictures are worse.\n\n"


def scheduler(sampler: str) -> list[str]:
    """The lines that give `pipe` the scheduler of a sampler; none for the model's own."""
    name = SCHEDULERS.get(sampler)
    if not name:
        return []
    clip = "" if sampler == "euler" else ", clip_sample=False"
    return [f"from diffusers import {name}", f"pipe.scheduler = {name}.from_config(pipe.scheduler.config{clip})"]


def loader(model: str) -> list[str]:
    """The lines that make `pipe`."""
    name = model_name(model)
    if model == "embedded":
        first = ["from diffusers import DiffusionPipeline", "from studio.pipelines.assets import assets_folder", ""]
        return ["import torch", *first, *WHERE, made("DiffusionPipeline.from_pretrained", 'assets_folder() / "base"')]
    if name.endswith((".safetensors", ".ckpt")):
        first = ["from diffusers import StableDiffusionPipeline  # or the class of this checkpoint's family", ""]
        return ["import torch", *first, *WHERE, made("StableDiffusionPipeline.from_single_file", text(name))]
    first = ["from diffusers import DiffusionPipeline", ""]
    return ["import torch", *first, *WHERE, made("DiffusionPipeline.from_pretrained", text(name))]


def made(call: str, source: str) -> str:
    """The line that loads the pipeline. Its type is said: parts may be stored in different ones."""
    return f"pipe = {call}({source}).to(device, dtype)"


def text(words: str) -> str:
    """A string of a program that cannot end the code block it stands in."""
    return json.dumps(" ".join(words.split())).replace("`", "\\u0060")


def block(program: str, language: str) -> str:
    """A fenced program."""
    return f"```{language}\n{program}\n```"
