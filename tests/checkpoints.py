"""Small checkpoints with random weights, made by the libraries themselves: one for each kind of encoder."""

import json
from pathlib import Path

import torch

OPENCLIP = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}
_SIGNS = "abcdefghijklmnopqrstuvwxyz0123456789"
LETTERS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "red", "blue", "shoe", *_SIGNS, *(f"##{c}" for c in _SIGNS)]
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}


def openclip(folder: Path, text=None, **changes) -> Path:
    """A folder for openclip:local-dir:, with a preprocessing of its own; `text` changes the text tower."""
    from mmenc_plugin.encoders import _torchvision

    _torchvision.state()
    import open_clip
    from safetensors.torch import save_file

    model = {**OPENCLIP, "text_cfg": {**OPENCLIP["text_cfg"], **(text or {})}, **changes}
    config = {"model_cfg": model, "preprocess_cfg": {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4]}}
    (folder / "open_clip_config.json").write_text(json.dumps(config))
    torch.manual_seed(1)
    save_file(open_clip.create_model(f"local-dir:{folder}").state_dict(), folder / "open_clip_model.safetensors")
    return folder


def sbert(folder: Path) -> Path:
    """A folder for sbert:, a BERT of two layers and a vocabulary of letters; its table has two rows to spare."""
    from mmenc_plugin.encoders import _torchvision

    _torchvision.state()
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import BertConfig, BertModel, BertTokenizerFast

    bert = folder / "bert"
    torch.manual_seed(1)
    BertModel(BertConfig(vocab_size=len(LETTERS) + 2, max_position_embeddings=32, **SIZES)).save_pretrained(bert)
    BertTokenizerFast(vocab={word: row for row, word in enumerate(LETTERS)}).save_pretrained(bert)
    modules = [Transformer(str(bert), max_seq_length=24), Pooling(32), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


def vlmo(folder: Path) -> Path:
    """A folder for vlmo:, of three blocks, with a vocabulary of letters."""
    from mmenc_plugin.encoders._vlmo import Vlmo, VlmoConfig
    from mmenc_plugin.encoders._vlmo.folder import save
    from mmenc_plugin.encoders._vlmo.vocabulary import WordPieces

    (folder / "vocab.txt").write_text("\n".join(LETTERS) + "\n")
    config = VlmoConfig(
        architecture="tiny", image_size=32, width=32, depth=3, heads=2, vl_start=2, positions="relative",
        layer_scale=True, vocabulary=len(LETTERS),
    )  # fmt: skip
    torch.manual_seed(1)
    network = Vlmo(config)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.2 * torch.randn(parameter.shape))
    save(network, WordPieces(folder / "vocab.txt", len(LETTERS), config.max_tokens), folder)
    return folder


def hf(kind: str, folder: Path) -> Path:
    """A folder for hf:, with its tokenizer of bytes and its image processor."""
    from mmenc_plugin.encoders import _torchvision

    _torchvision.state()
    tokenizer = byte_tokenizer()
    model, processor = {"clip": _clip, "siglip": _siglip, "siglip2": _siglip2, "align": _align}[kind](len(tokenizer))
    for part in (model.eval(), processor, tokenizer):
        part.save_pretrained(folder)
    return folder


def byte_tokenizer(**added):
    """Every byte is a token; a text has <bos> before it and <eos> behind it."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    specials = ["<pad>", "<bos>", "<eos>", "<unk>", "<mask>"]  # all that a tokenizer class might add
    vocabulary = {token: row for row, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.post_processor = processors.TemplateProcessing(
        single="<bos> $0 <eos>", special_tokens=[(token, vocabulary[token]) for token in specials[1:3]]
    )
    names = dict(zip(("pad_token", "bos_token", "eos_token", "unk_token", "mask_token"), specials, strict=True))
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, model_input_names=["input_ids", "attention_mask"], **names, **added
    )


def _towers(vocabulary):
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    text = {**SIZES, **ids, "vocab_size": vocabulary, "max_position_embeddings": 16}
    return text, {**SIZES, "image_size": 32, "patch_size": 8}


def _clip(vocabulary):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    torch.manual_seed(1)
    text, vision = _towers(vocabulary)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    crop = {"height": 32, "width": 32}
    return model, CLIPImageProcessor(size={"shortest_edge": 37}, crop_size=crop)


def _siglip(vocabulary):
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    torch.manual_seed(1)
    text, vision = _towers(vocabulary)
    model = SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    return model, SiglipImageProcessor(size={"height": 32, "width": 32}, do_convert_rgb=True)


def _siglip2(vocabulary):
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model

    torch.manual_seed(1)
    text, vision = _towers(vocabulary)
    vision = {**vision, "num_patches": 16}
    vision.pop("image_size")
    model = Siglip2Model(Siglip2Config(text_config=text, vision_config=vision))
    return model, Siglip2ImageProcessor(patch_size=8, max_num_patches=40)


def _align(vocabulary):
    from transformers import AlignConfig, AlignModel, EfficientNetImageProcessor

    torch.manual_seed(1)
    text, _ = _towers(vocabulary)
    stages = {"kernel_sizes": [3, 5], "in_channels": [32, 16], "out_channels": [16, 16], "strides": [1, 2]}
    stages |= {"num_block_repeats": [1, 1], "expand_ratios": [1, 6], "depthwise_padding": []}
    vision = {"image_size": 32, "width_coefficient": 0.25, "depth_coefficient": 1.0, "hidden_dim": 16, **stages}
    model = AlignModel(AlignConfig(text_config=text, vision_config=vision, projection_dim=16))
    for module in model.modules():  # as they come, so many small ones in a row leave nothing of a picture
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight)
    size = {"height": 32, "width": 32}
    return model, EfficientNetImageProcessor(size=size, resample=3, rescale_factor=1 / 127.5, rescale_offset=True)


class Bomb:
    """Pickled, it makes a file where it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")
