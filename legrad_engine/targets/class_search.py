"""Search among the classes of an image model, by name or by index."""

from functools import lru_cache

from legrad_engine.targets.classifier import Classifier, name_key


def search_classes(classifier: Classifier, search: str) -> list[int]:
    """Return the indices of the classes that match, the closest first.

    A class matches if its label contains every word of the search, in any order and case, or if
    the search is its index. An index comes first, then labels with a name equal to the search,
    labels that contain it as a whole word or words, and all others; each of these in the order of
    the indices.

    Args:
        classifier: the classifier; without labels only an index can match.
        search: words or an index; an empty search matches every class.
    """
    wanted = name_key(search)
    if not wanted:
        return list(range(classifier.count))
    words = wanted.split()
    ranked: list[tuple[int, int]] = []
    for index, label in enumerate(_keys(classifier.labels or ())):
        if all(word in label for word in words):
            ranked.append((_rank(label, wanted), index))
    found = [index for _, index in sorted(ranked)]
    if wanted.isdecimal() and int(wanted) < classifier.count:
        chosen = int(wanted)
        found = [chosen, *(index for index in found if index != chosen)]
    return found


def _rank(label: str, wanted: str) -> int:
    names = [name.strip() for name in label.split(",")]
    if wanted in names:
        return 0
    return 1 if any(f" {wanted} " in f" {name} " for name in names) else 2


@lru_cache(maxsize=16)
def _keys(labels: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(map(name_key, labels))
