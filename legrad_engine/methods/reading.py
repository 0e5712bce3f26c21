"""The queries through which a model's score reads the patches.

A model with a class token reads the last block's attention in one row. A model that averages its
patches reads as many rows as it averages, and their mean takes the place of that row. A model with
an attentional pooler reads the pooler's own queries.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from legrad_engine.errors import InvalidOptionError
from legrad_engine.families.attention import Attention
from legrad_engine.families.base import Tower
from legrad_engine.families.heads import FeatureMapHead, RowsHead, ScoreHead, TokenHead
from legrad_engine.families.pooler import PoolerHead

# Elements of attention matrices in memory at once.
_CHUNK_ELEMENTS = 16_000_000


def refusal_of_windows(tower: Tower) -> str | None:
    """Give the reason why no query of a tower reads the whole picture; None if some do."""
    if tower.width is not None:
        return None
    return (
        "its tokens do not attend to the whole picture in every block, so no query reads it for "
        "the score; 'legrad' and 'gradcam' come nearest"
    )


def note_on_queries(tower: Tower) -> str | None:
    """Say in a sentence which queries take the place of the class token; None for that itself."""
    head = tower.served_head()
    if isinstance(head, PoolerHead):
        return "The attention is that of the model's pooler, in the place of a class token's."
    if has_few_rows(tower, head):
        return None
    return (
        "The model's score reads no class token: the mean over the queries of all tokens that it "
        "averages takes its place."
    )


def read_rows(tower: Tower, head: ScoreHead) -> slice:
    """Return the token rows whose queries stand for the score.

    Raises:
        InvalidOptionError: the head reads no rows; see :func:`refusal_of_windows`.
    """
    if isinstance(head, RowsHead) and head.rows.stop is None:
        # The class token beside the patches: the token that reads the picture for the score.
        return slice(0, 1)
    rows = head.rows if isinstance(head, TokenHead | FeatureMapHead) else None
    if rows is None:
        raise InvalidOptionError(
            f"This method needs another score of {tower.family}.", field="score"
        )
    return rows


def has_few_rows(tower: Tower, head: ScoreHead) -> bool:
    """Tell whether :func:`read_rows` are the class token, or a few tokens like it."""
    rows = read_rows(tower, head)
    return rows.stop is not None and rows.stop <= tower.prefix_tokens


def count_heads(tower: Tower, device: torch.device, dtype: torch.dtype) -> int:
    """Return the number of heads of the attention through which the score reads the patches."""
    with torch.no_grad():
        tokens = tower.embed(torch.zeros(1, 3, *tower.image_size, device=device, dtype=dtype))
        head = tower.served_head()
        if isinstance(head, PoolerHead):
            return head.attend(tokens).values.shape[1]
        return tower.attend(tokens, tower.depth - 1).values.shape[1]


def mean_over_queries(attention: Attention) -> Tensor:
    """Compute the mean over all queries of an attention's weights.

    Returns:
        ``[B, heads, N]``, at least float32.
    """
    queries = attention.queries.shape[2]
    first, *others = (part.weights().sum(2) for part in _parts(attention))
    return sum(others, first) / queries


def mean_over_heads(attention: Attention) -> Tensor:
    """Compute the mean over all heads of an attention's weights.

    Returns:
        ``[B, Q, N]``, at least float32.
    """
    return torch.cat([part.weights().mean(1) for part in _parts(attention)], 1)


def _parts(attention: Attention) -> Iterator[Attention]:
    """Divide an attention by queries, so that its weights are never in memory at once."""
    batch, heads, queries, _ = attention.queries.shape
    step = max(1, _CHUNK_ELEMENTS // (batch * heads * attention.keys.shape[2]))
    for start in range(0, queries, step):
        yield attention.of_queries(slice(start, start + step))
