"""What each score says, in a short line for people: the one place for it. Knows neither torch nor the scorers."""

from __future__ import annotations

import re

MEANINGS = (
    (r"^identity-max", "likeness to the most similar reference picture; 1: the same"),
    (r"^identity", "likeness to the subject's reference pictures, on average; 1: the same"),
    (r"^prompt.accuracy", "share of what the prompt asks for that a judge finds in the picture, 0 to 1"),
    (r"^diversity", "how much the pictures of one prompt differ from each other; 0: not at all"),
    (r"^copy-similarity", "likeness to the nearest training picture; close to 1: a copy"),
    (r"^cop(y|ies)", "share of pictures that look like copies of a training picture, 0 to 1"),
    (r"^caption-match", "how well a caption of the picture, written by a model, fits its prompt"),
    (r"^caption-recall", "share of the prompt's words that a caption of the picture names again, 0 to 1"),
    (r"^(prior.)?drift", "how far pictures without the trigger word moved from the base model's; 0: not at all"),
    (r"^leak-identity", "likeness to the subject that comes without the trigger word, beyond the base model's"),
    (r"leak", "the part of what the trigger word adds that comes without it too; 0: none, 1: all; more is possible"),
    (r"^embedded-prompt", "how well picture and prompt fit, by the small world's own judge; at most 1"),
    (r"^embedded-(subject|traits)", "likeness to the references, by the small world's own judge; at most 1"),
    (r"^embedded-(attributes|stated)", "share of the attributes in the prompt that the small world's judge reads"),
    (r"^embedded-wish", "how surely the small world's judge reads the one attribute that was wished for"),
    (r"^vendi", "how many different pictures a prompt's pictures amount to; 1: all the same"),
    (r"^lpips", "how different the pictures of one prompt look to a trained eye; 0: the same"),
    (r"^clip-?i", "CLIP-I: likeness to the reference pictures as CLIP sees them; class more than individual"),
    (r"^dino-subject", "likeness of the subject alone, its background left out, as DINO sees it; 1: the same"),
    (r"^dino", "DINO: likeness to the reference pictures, finer than CLIP in telling individuals; 1: the same"),
    (r"^clip-?t", "CLIP-T: how well picture and prompt fit, as CLIP sees them; 0.25 to 0.35 is usual"),
    (r"^clip-?score", "CLIP-T times 2.5, the other published form of it"),
    (r"^f-?clip", "words of the prompt that the picture contradicts; 0: none, less is worse"),
    (r"^siglip-probability|^blip2?-itm", "how surely picture and prompt belong together, 0 to 1"),
    (r"^siglip|^blip", "how well picture and prompt fit, as this model sees them; at most 1"),
    (r"^hps|^pickscore|^image-?reward", "how people would like the picture for its prompt, by a trained judge"),
    (r"^aesthetic", "how people would rate the picture, whatever it shows, 1 to 10"),
    (r"^ocr", "how much of the text that the prompt quotes is written in the picture, 0 to 1"),
    (r"^detector", "how surely an object of the asked class is in the picture"),
    (r"^colourfulness", "how vivid the colours are; 0: gray"),
    (r"^jpeg", "how much detail the pictures have, as the size of a JPEG"),
    (r"frechet|^fid|^fd\b", "distance of all pictures, as a set, from the references; 0: none"),
    (r"kid|mmd", "distance of all pictures, as a set, from the references, for few pictures; 0: none"),
    (r"subject|similarity|traits", "likeness to the subject's reference pictures"),
    (r"prompt|caption|attributes", "how well the pictures follow their prompts"),
)


def meaning(name: str) -> str:
    """A line on the score of this name; "" for one of a plug-in that nobody knows here."""
    return next((words for pattern, words in MEANINGS if re.search(pattern, name.casefold())), "")
