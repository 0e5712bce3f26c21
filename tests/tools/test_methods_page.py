"""docs/methods.md is the page that its generator writes."""

from tests.support.paths import DOCS
from tools.methods_page import PAGE, page


def test_the_page_is_up_to_date() -> None:
    assert (DOCS / PAGE).read_text() == page(DOCS), "run `make methods-page`"
