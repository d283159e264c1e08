"""What the embedded world knows: concepts, styles, colours, and what is kept from the base model.

Concepts are emoji code points named with the plain word a person would type. `small` is the tier that two
cores can learn in about an hour; the tier `full` takes every usable concept of `emojibase-data`.
"""

KINDS: dict[str, str] = {
    "animal": (
        "dog 1f436,poodle 1f429,wolf 1f43a,fox 1f98a,cat 1f431,tiger 1f42f,lion 1f981,horse 1f434,unicorn 1f984,"
        "deer 1f98c,cow 1f42e,pig 1f437,sheep 1f411,camel 1f42a,elephant 1f418,rhinoceros 1f98f,mouse 1f42d,"
        "rabbit 1f430,squirrel 1f43f,bat 1f987,bear 1f43b,koala 1f428,panda 1f43c,monkey 1f435,frog 1f438,"
        "crocodile 1f40a,turtle 1f422,lizard 1f98e,snake 1f40d,snail 1f40c,butterfly 1f98b,bee 1f41d,"
        "ladybug 1f41e,spider 1f577,scorpion 1f982"
    ),
    "bird": "chicken 1f414,rooster 1f413,chick 1f424,penguin 1f427,eagle 1f985,duck 1f986,owl 1f989",
    "fish": "whale 1f433,dolphin 1f42c,goldfish 1f420,blowfish 1f421,shark 1f988,octopus 1f419,crab 1f980",
    "plant": (
        "rose 1f339,sunflower 1f33b,daisy 1f33c,tulip 1f337,hibiscus 1f33a,pine tree 1f332,tree 1f333,"
        "palm tree 1f334,cactus 1f335,clover 1f340,maple leaf 1f341,mushroom 1f344"
    ),
    "food": (
        "grapes 1f347,watermelon 1f349,orange 1f34a,lemon 1f34b,banana 1f34c,pineapple 1f34d,apple 1f34e,pear 1f350,"
        "peach 1f351,cherries 1f352,strawberry 1f353,tomato 1f345,avocado 1f951,eggplant 1f346,carrot 1f955,"
        "corn 1f33d,pepper 1f336,bread 1f35e,croissant 1f950,cheese 1f9c0,hamburger 1f354,fries 1f35f,pizza 1f355,"
        "hot dog 1f32d,taco 1f32e,ice cream 1f366,doughnut 1f369,cookie 1f36a,cake 1f370,lollipop 1f36d,beer 1f37a,"
        "wine 1f377"
    ),
    "vehicle": (
        "train 1f686,bus 1f68c,ambulance 1f691,taxi 1f695,car 1f697,truck 1f69a,tractor 1f69c,motorcycle 1f3cd,"
        "bicycle 1f6b2,sailboat 26f5,ship 1f6a2,airplane 2708,helicopter 1f681,rocket 1f680"
    ),
    "object": (
        "house 1f3e0,castle 1f3f0,tent 26fa,alarm clock 23f0,moon 1f319,sun 1f31e,star 2b50,cloud 2601,umbrella 2602,"
        "snowman 26c4,fire 1f525,balloon 1f388,gift 1f381,trophy 1f3c6,soccer ball 26bd,basketball 1f3c0,"
        "tennis ball 1f3be,dice 1f3b2,glasses 1f453,shirt 1f455,dress 1f457,backpack 1f392,shoe 1f45f,crown 1f451,"
        "top hat 1f3a9,diamond 1f48e,bell 1f514,guitar 1f3b8,violin 1f3bb,drum 1f941,telephone 260e,computer 1f5a5,"
        "camera 1f4f7,light bulb 1f4a1,book 1f4d5,key 1f511,hammer 1f528,scissors 2702,lock 1f512,anchor 2693"
    ),
}  # fmt: skip

# Learned by the base model: look, npm package, phrases a caption may use for it.
STYLES: dict[str, tuple[str, tuple[str, ...]]] = {
    "noto": ("@iconify-json/noto", ("a shaded cartoon", "a soft cartoon", "a noto drawing")),
    "twemoji": ("@iconify-json/twemoji", ("a flat sticker", "a simple sticker", "a twemoji drawing")),
    "emojione": ("@iconify-json/emojione", ("a bright vector", "a glossy vector", "an emojione drawing")),
}
# Whole families the base model never sees: the style benchmark.
HELD_OUT_STYLES: dict[str, tuple[str, str]] = {
    "fluent-flat": ("@iconify-json/fluent-emoji-flat", "MIT, Microsoft"),
    "fluent-line": ("@iconify-json/fluent-emoji-high-contrast", "MIT, Microsoft"),
    "fxemoji": ("@iconify-json/fxemoji", "Apache-2.0, Mozilla"),
    "streamline": ("@iconify-json/streamline-emojis", "CC-BY-4.0, Streamline"),
}
LICENCES: dict[str, str] = {
    "noto": "Apache-2.0, Google (Noto Emoji)",
    "twemoji": "CC-BY-4.0, Twitter and contributors (Twemoji)",
    "emojione": "CC-BY-4.0, EmojiOne (EmojiOne 2)",
}
BACKGROUNDS: dict[str, tuple[int, int, int]] = {
    "red": (214, 48, 49), "orange": (243, 146, 55), "yellow": (250, 217, 90), "green": (76, 165, 80),
    "teal": (38, 166, 154), "blue": (52, 116, 219), "purple": (126, 70, 178), "pink": (245, 160, 190),
    "brown": (122, 82, 56), "gray": (150, 152, 156), "white": (246, 246, 246), "black": (28, 28, 32),
}  # fmt: skip
TINTS: tuple[str, ...] = ("red", "yellow", "green", "blue", "purple", "pink")

# Individuals: Fluent 3D animations, a family the base model never sees in any form. name -> (code point, class word)
SUBJECTS: dict[str, tuple[str, str]] = {
    "fox": ("1f98a", "fox"), "dog": ("1f436", "dog"), "cat": ("1f431", "cat"), "penguin": ("1f427", "penguin"),
    "octopus": ("1f419", "octopus"), "turtle": ("1f422", "turtle"), "rocket": ("1f680", "rocket"),
    "owl": ("1f989", "owl"), "rabbit": ("1f430", "rabbit"), "snowman": ("26c4", "snowman"),
    "hedgehog": ("1f994", "animal"), "parrot": ("1f99c", "bird"), "dragon": ("1f409", "animal"),
    "t-rex": ("1f996", "animal"), "robot": ("1f916", "object"), "flamingo": ("1f9a9", "bird"),
}  # fmt: skip


def concepts() -> dict[str, str]:
    """Word -> code point (lower-case hexadecimal, without the variation selector) of the `small` tier."""
    pairs = [entry.rsplit(" ", 1) for names in KINDS.values() for entry in names.split(",")]
    return {word: code for word, code in pairs}


def kind_of(word: str) -> str:
    """The more general word for a concept ('animal' for 'fox'); used in some captions instead of the concept."""
    return next((k for k, names in KINDS.items() if f",{word} " in f",{names}"), word)
