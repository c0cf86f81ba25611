"""Large pages are asked for, unless the user has decided."""

import os

import pytest

from zsad.detector import use_large_pages


@pytest.mark.parametrize(("given", "kept"), [(None, "1"), ("0", "0")])
def test_large_pages_are_asked_for_unless_the_user_has_decided(monkeypatch, given, kept):
    # Set first, so that it is restored whatever it was.
    monkeypatch.setenv("THP_MEM_ALLOC_ENABLE", given or "")
    if given is None:
        monkeypatch.delenv("THP_MEM_ALLOC_ENABLE")
    use_large_pages()
    assert os.environ["THP_MEM_ALLOC_ENABLE"] == kept
