"""Counts of tokens before a text is cut: those that the encoder's own tokens have where nothing is cut."""

import pytest
import torch

from mmenc_plugin import encoders
from mmenc_plugin.encoders.openclip import OpenClip
from mmenc_plugin.testing.samples import TEXTS

SHORT = ["a red shoe", "blue", "It's 50% off!", " ", ""]
LONG = "red " * 100  # 100 tokens for each of the tokenizers


@pytest.fixture(scope="module")
def clip(tiny_clip):
    return encoders.build(f"openclip:local-dir:{tiny_clip}")


@pytest.fixture(scope="module")
def clip_of_bert(clip, tiny_sbert):
    """The same network with a Hugging Face tokenizer, as OpenCLIP's multilingual models have."""
    from open_clip.tokenizer import HFTokenizer

    return OpenClip(clip.model, HFTokenizer(str(tiny_sbert), context_length=16), "local-dir", "none")


def test_openclip_counts_what_it_tokenizes(clip):
    ids = clip.tokenize(SHORT)["ids"]
    ends = (ids == clip._tokenizer.eot_token_id).int().argmax(dim=1) + 1
    assert clip.token_counts(SHORT).tolist() == ends.tolist()


def test_openclip_with_a_hugging_face_tokenizer_counts_what_it_tokenizes(clip_of_bert):
    ids = clip_of_bert._tokenizer(SHORT)  # `tokenize` cuts what the tower does not see
    assert clip_of_bert.token_counts(SHORT).tolist() == (ids != 0).sum(dim=1).tolist()


def test_openclip_with_a_tokenizer_that_it_does_not_know_tells_nothing(clip):
    class Tokenizer:
        context_length = 16

        def __call__(self, texts):
            return torch.ones(len(texts), 16, dtype=torch.int64)

    assert OpenClip(clip.model, Tokenizer(), "local-dir", "none").token_counts(SHORT) is None


def test_sbert_counts_what_it_tokenizes(tiny_sbert):
    encoder = encoders.build(f"sbert:{tiny_sbert}")
    assert encoder.token_counts(SHORT).tolist() == encoder.tokenize(SHORT)["attention_mask"].sum(dim=1).tolist()


def test_hf_counts_what_it_tokenizes(tiny_hf_clip):
    encoder = encoders.build(f"hf:{tiny_hf_clip}")
    tokens = encoder.tokenize(SHORT)
    assert encoder.token_counts(SHORT).tolist() == tokens["attention_mask"].sum(dim=1).tolist()
    assert encoder.token_counts([LONG])[0] > 100 > tokens["input_ids"].shape[1]


def test_sbert_counts_the_prompt(tiny_sbert, tmp_path):
    from sentence_transformers import SentenceTransformer

    model = SentenceTransformer(str(tiny_sbert), device="cpu")
    model.prompts, model.default_prompt_name = {"query": "red shoe "}, "query"
    model.save(str(tmp_path))
    assert encoders.build(f"sbert:{tmp_path}").token_counts(["blue"]).tolist() == [5]


def test_sbert_without_a_callable_tokenizer_tells_nothing(tmp_path):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import StaticEmbedding
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    tokenizer = Tokenizer(WordLevel({"[UNK]": 0, "red": 1}, unk_token="[UNK]"))
    SentenceTransformer(modules=[StaticEmbedding(tokenizer, embedding_dim=4)], device="cpu").save(str(tmp_path))
    assert encoders.build(f"sbert:{tmp_path}").token_counts(["red"]) is None


def test_a_text_over_the_limit_is_counted_whole_and_still_cut(clip, clip_of_bert, tiny_sbert):
    for encoder in (clip, clip_of_bert, encoders.build(f"sbert:{tiny_sbert}")):
        before = encoder.tokenize([LONG])
        assert encoder.token_counts([LONG, "red"]).tolist() == [102, 3]
        after = encoder.tokenize([LONG])
        assert all(torch.equal(before[name], after[name]) for name in before)
        assert next(iter(after.values())).shape[1] <= encoder.spec.preprocessing["text"]["max_tokens"]


def test_classic_counts_words_and_pairs():
    assert encoders.build("classic").token_counts(["a red shoe", "red red red", ""]).tolist() == [3, 5, 0]


@pytest.mark.parametrize("uri", ["classic", "openclip:local-dir:{clip}", "sbert:{sbert}"])
def test_counts_do_not_depend_on_the_batch(uri, tiny_clip, tiny_sbert):
    encoder = encoders.build(uri.format(clip=tiny_clip, sbert=tiny_sbert))
    counts = encoder.token_counts(TEXTS)
    assert counts.dtype == torch.int64
    assert counts.tolist() == [encoder.token_counts([text]).item() for text in TEXTS]
    assert encoder.token_counts([]).tolist() == []
