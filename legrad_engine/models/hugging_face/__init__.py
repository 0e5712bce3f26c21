"""Models of Hugging Face ``transformers``, converted to modules of open_clip and timm.

Only the files of a model are read: its config, its weights and the numbers of its image processor.
Each group of model classes is one file, which registers itself with
:mod:`legrad_engine.models.hugging_face.registry`.
"""
