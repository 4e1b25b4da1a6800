"""Small random models of the families that peftkit trains, with tokenizers made here: each is there in milliseconds."""

import functools
import gc
import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
import transformers
from tokenizers import pre_tokenizers, processors
from transformers import PreTrainedModel, PreTrainedTokenizerBase

gc.freeze()  # a collection after each load need not look at all that was imported

_FOLDERS = tempfile.TemporaryDirectory(prefix="peftkit-models-")
_WORDS = ("good", "great", "lovely", "fine", "bad", "awful", "dull", "poor", "film", "book", "it", "was", "a", "by")
_CHARACTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,:;!?-'"
_CLOZE = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
_SIZE = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
}
_SIZE_ENCODER_DECODER = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 64,
    "decoder_ffn_dim": 64,
    "max_position_embeddings": 128,
}

Made = tuple[PreTrainedTokenizerBase, PreTrainedModel]


def word_pieces() -> dict[str, int]:
    """BERT's kind of vocabulary: words, and characters that begin or continue a word."""
    tokens = [*_CLOZE, *_WORDS, *_CHARACTERS, *(f"##{one}" for one in _CHARACTERS)]
    return {token: place for place, token in enumerate(dict.fromkeys(tokens))}


def byte_level(*specials: str) -> dict[str, int]:
    """GPT-2's kind of vocabulary: special tokens, then each of the 256 bytes."""
    return {token: place for place, token in enumerate([*specials, *sorted(pre_tokenizers.ByteLevel.alphabet())])}


def unigrams(*specials: str) -> list[tuple[str, float]]:
    """SentencePiece's kind of vocabulary: words and characters with their log-probabilities."""
    pieces = [*(f"▁{word}" for word in _WORDS), "▁", *_CHARACTERS]
    return [*((token, 0.0) for token in specials), *((piece, -2.0 - len(piece) / 10) for piece in pieces)]


def _bert() -> Made:
    tokenizer = transformers.BertTokenizer(vocab=word_pieces(), model_max_length=128)
    config = transformers.BertConfig(vocab_size=len(tokenizer), max_position_embeddings=128, **_SIZE)
    return tokenizer, transformers.BertForMaskedLM(config)


def _distilbert() -> Made:
    tokenizer = transformers.DistilBertTokenizer(vocab=word_pieces(), model_max_length=128)
    config = transformers.DistilBertConfig(
        vocab_size=len(tokenizer), dim=32, hidden_dim=64, n_layers=2, n_heads=4, max_position_embeddings=128
    )
    return tokenizer, transformers.DistilBertForMaskedLM(config)


def _roberta() -> Made:
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer = transformers.RobertaTokenizer(vocab=byte_level(*specials), merges=[], model_max_length=126)
    config = transformers.RobertaConfig(
        vocab_size=len(tokenizer), max_position_embeddings=128, type_vocab_size=1, **_SIZE
    )  # positions start after the padding id, so two of the 128 are never used
    return tokenizer, transformers.RobertaForMaskedLM(config)


def _deberta() -> Made:
    tokenizer = transformers.DebertaV2Tokenizer(
        vocab=unigrams("[PAD]", "[CLS]", "[SEP]", "[UNK]"), unk_id=3, model_max_length=128
    )
    config = transformers.DebertaV2Config(
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        relative_attention=True,
        position_buckets=16,
        pos_att_type=["p2c", "c2p"],
        position_biased_input=False,
        type_vocab_size=0,
        pooler_hidden_size=32,
        **_SIZE,
    )
    return tokenizer, transformers.DebertaV2ForMaskedLM(config)


def _modernbert() -> Made:
    backend = transformers.RobertaTokenizer(vocab=byte_level(*_CLOZE, "<unk>"), merges=[]).backend_tokenizer
    backend.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend,
        mask_token="[MASK]",
        model_max_length=128,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )
    config = transformers.ModernBertConfig(
        vocab_size=len(tokenizer),
        max_position_embeddings=128,
        local_attention=16,
        pad_token_id=0,
        bos_token_id=2,
        cls_token_id=2,
        eos_token_id=3,
        sep_token_id=3,
        **_SIZE,
    )
    return tokenizer, transformers.ModernBertForMaskedLM(config)


def _llama() -> Made:
    backend = transformers.RobertaTokenizer(vocab=byte_level("<|endoftext|>", "<|im_start|>", "<|im_end|>", "<unk>"))
    backend.backend_tokenizer.post_processor = processors.ByteLevel()
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=backend.backend_tokenizer, eos_token="<|im_end|>", model_max_length=128
    )  # without a padding token, as many decoders
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        num_key_value_heads=2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=None,
        **_SIZE,
    )
    return tokenizer, transformers.LlamaForCausalLM(config)


def _t5() -> Made:
    tokenizer = transformers.T5Tokenizer(
        vocab=unigrams("<pad>", "</s>", "<unk>"), extra_ids=0, additional_special_tokens=[], model_max_length=128
    )
    config = transformers.T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=64,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        decoder_start_token_id=0,
    )
    return tokenizer, transformers.T5ForConditionalGeneration(config)


def _bart() -> Made:
    specials = ("<s>", "<pad>", "</s>", "<unk>", "<mask>")
    tokenizer = transformers.BartTokenizer(vocab=byte_level(*specials), merges=[], model_max_length=128)
    config = transformers.BartConfig(vocab_size=len(tokenizer), **_SIZE_ENCODER_DECODER)
    return tokenizer, transformers.BartForConditionalGeneration(config)


_MAKERS: dict[str, Callable[[], Made]] = {
    "bert": _bert,
    "roberta": _roberta,
    "distilbert": _distilbert,
    "deberta-v2": _deberta,
    "modernbert": _modernbert,
    "llama": _llama,
    "t5": _t5,
    "bart": _bart,
}
ENCODERS = ("bert", "roberta", "distilbert", "deberta-v2", "modernbert")
SEQ2SEQ = ("t5", "bart")


@functools.cache
def tiny(name: str) -> Path:
    """Return the folder of a small random model, made at the first call: two layers of 32 units, 128 positions."""
    torch.manual_seed(0)
    tokenizer, model = _MAKERS[name]()
    folder = Path(_FOLDERS.name) / name
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    return folder
