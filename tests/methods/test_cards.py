"""The reference cards in the docs."""

from scripts.method_cards import PAGE, page


def test_the_page_is_what_the_methods_declare():
    assert PAGE.read_text() == page(), "run `python -m scripts.method_cards`"
