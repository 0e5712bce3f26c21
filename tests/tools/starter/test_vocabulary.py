"""The words that the built-in model knows."""

import json
from pathlib import Path

import legrad_engine.starter
from tools.starter.vocabulary import SYNONYMS, TEMPLATES, fill, names, plural

FOLDER = Path(legrad_engine.starter.__file__).parent
CONCEPTS: dict[str, list[str]] = json.loads((FOLDER / "concepts.json").read_text())


def test_the_committed_concepts_have_the_programs_synonyms() -> None:
    assert {name: tuple(words) for name, words in CONCEPTS.items() if words} == SYNONYMS


def test_no_name_or_synonym_stands_for_two_concepts() -> None:
    words = [word for concept, synonyms in CONCEPTS.items() for word in (concept, *synonyms)]

    assert len(words) == len(set(words))


def test_templates_put_the_words_into_a_sentence() -> None:
    assert fill("a photo of {a}", "owl") == "a photo of an owl"
    assert fill("the {}", "cat") == "the cat"
    assert all("{}" in template or "{a}" in template for template in TEMPLATES)


def test_names_hold_synonyms_and_plurals() -> None:
    assert {"cat", "cats", "kitten", "kitties"} <= set(names("cat"))
    assert [plural(word) for word in ("fox", "cherry", "key", "church", "glasses")] == [
        "foxes",
        "cherries",
        "keys",
        "churches",
        "glasses",
    ]
