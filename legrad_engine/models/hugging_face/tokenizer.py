"""Tokenizer that is saved beside a model of ``transformers``."""

from pathlib import Path

from open_clip.tokenizer import HFTokenizer

from legrad_engine.errors import ModelLoadError, in_one_line


class SavedTokenizer(HFTokenizer):  # type: ignore[misc] # open_clip has no types
    """A tokenizer of ``transformers`` without open_clip's own cleaning of texts.

    Texts are padded to the context and no attention mask is used: CLIP's attention is causal, and
    SigLIP was trained so.
    """

    def __init__(self, folder: Path, context_length: int) -> None:
        """Read a tokenizer; its code is never run.

        Raises:
            ModelLoadError: the folder has no tokenizer, or a damaged one.
        """
        try:
            super().__init__(str(folder), context_length=context_length, trust_remote_code=False)
        except Exception as error:
            raise ModelLoadError(
                f"The tokenizer in {str(folder)!r} cannot be read ({in_one_line(error)}). Save it "
                "beside the model: AutoProcessor.from_pretrained(...).save_pretrained(FOLDER).",
                field="model",
            ) from error
        self.clean_fn = str
