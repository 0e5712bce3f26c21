"""Tokenizer that is saved beside a model of ``transformers``."""

from pathlib import Path

from open_clip.tokenizer import HFTokenizer

from legrad_engine.errors import ModelLoadError, in_one_line

# Without any of these, transformers makes a tokenizer that knows no words, and does not say so.
_VOCABULARIES = (
    "tokenizer.json",
    "vocab.json",
    "vocab.txt",
    "tokenizer.model",
    "spiece.model",
    "sentencepiece.bpe.model",
)
_SAVING = "Save it beside the model: AutoProcessor.from_pretrained(...).save_pretrained(FOLDER)."
_PROBE = "a photo of a cat"


class SavedTokenizer(HFTokenizer):  # type: ignore[misc] # open_clip has no types
    """A tokenizer of ``transformers`` without open_clip's own cleaning of texts.

    Texts are padded to the context and no attention mask is used: CLIP's attention is causal, and
    SigLIP was trained so.
    """

    def __init__(self, folder: Path, context_length: int, vocabulary: int) -> None:
        """Read a tokenizer; its code is never run.

        Args:
            folder: folder of the model's files.
            context_length: number of tokens that the text half reads.
            vocabulary: number of tokens that the text half knows.

        Raises:
            ModelLoadError: the folder has no tokenizer, or a damaged one, or that of another model.
        """
        if not any((folder / name).is_file() for name in _VOCABULARIES):
            raise ModelLoadError(
                f"The folder {str(folder)!r} has no tokenizer. {_SAVING}", field="model"
            )
        try:
            super().__init__(str(folder), context_length=context_length, trust_remote_code=False)
        except Exception as error:
            raise ModelLoadError(
                f"The tokenizer in {str(folder)!r} cannot be read ({in_one_line(error)}). "
                f"{_SAVING}",
                field="model",
            ) from error
        self.clean_fn = str
        if int(self([_PROBE]).max()) >= vocabulary:
            raise ModelLoadError(
                f"The tokenizer in {str(folder)!r} is that of another model: it gives tokens that "
                f"are not among the {vocabulary} of the text half.",
                field="model",
            )
