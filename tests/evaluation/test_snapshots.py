"""The assertion about snapshots can fail."""

import pytest
from snapshots import assert_as_in_snapshot


def test_a_change_is_noticed_and_a_new_figure_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("RENEW_SNAPSHOTS", "1")
    assert_as_in_snapshot("<svg>1</svg> <p>one</p>", "page.html", tmp_path)
    monkeypatch.delenv("RENEW_SNAPSHOTS")
    assert_as_in_snapshot("<svg>2</svg> <p>one</p>", "page.html", tmp_path)
    with pytest.raises(AssertionError, match="make snapshots"):
        assert_as_in_snapshot("<svg>1</svg> <p>two</p>", "page.html", tmp_path)
