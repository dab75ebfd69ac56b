"""The queue of calls to MLflow: their order, retries, and when it gives up."""

import time

from isod.tracking.deliveries import Deliveries


def test_deliveries_keep_the_order_and_are_retried(caplog):
    made, failures = [], [OSError("away"), OSError("still away")]

    def second():
        if failures:
            raise failures.pop(0)
        made.append(2)

    deliveries = Deliveries(retry_after=0.01)
    for call in (lambda: made.append(1), second, lambda: made.append(3)):
        deliveries.put("UIS-seed0", call)
    assert deliveries.close(patience=30) == (0, "")
    assert made == [1, 2, 3]
    assert caplog.messages == [
        "MLflow does not accept data (away): it is kept and sent again",
        "MLflow accepts data again: 1 messages follow",
    ]


def test_closed_deliveries_give_up_and_return_what_is_left():
    def away():
        raise OSError("nobody there")

    deliveries = Deliveries(retry_after=0.01)
    deliveries.put("UIS-seed0", away)
    deliveries.put("UIS-seed0", lambda: None)
    assert deliveries.close(patience=0.05) == (2, "nobody there")


def test_deliveries_give_up_where_attempts_take_longer_than_the_time_between_them():
    """Two runs, so that one is due again whenever the other's attempt has failed: a locked database, say."""

    def slow():
        time.sleep(0.05)
        raise OSError("locked")

    deliveries = Deliveries(retry_after=0.01)
    for run in ("UIS-seed0", "LIS-seed0"):
        deliveries.put(run, slow)
    began = time.monotonic()
    assert deliveries.close(patience=0.3) == (2, "locked")
    assert time.monotonic() - began < 5


def test_patience_counts_from_the_last_delivery():
    """Closing takes longer than the patience, as there is much to deliver; then one call fails once."""
    failures = [OSError("locked")]

    def once():
        if failures:
            raise failures.pop()

    deliveries = Deliveries(retry_after=0.2)
    for call in (lambda: time.sleep(0.7), once):
        deliveries.put("UIS-seed0", call)
    assert deliveries.close(patience=0.5) == (0, "")


def test_a_failure_of_one_run_delays_no_other(caplog):
    """A file that nobody may write, say; the end of the sweep, which is for all runs, does wait."""
    made = []

    def refused():
        raise PermissionError("model.pt")

    deliveries = Deliveries(retry_after=0.01)
    deliveries.put("UIS-seed0", refused)
    deliveries.put("UIS-seed0", lambda: made.append("behind it"))
    deliveries.put("LIS-seed0", lambda: made.append("of another run"))
    deliveries.put(None, lambda: made.append("of all"))
    assert deliveries.close(patience=0.2) == (3, "model.pt")
    assert made == ["of another run"]
    assert caplog.messages == ["MLflow does not accept data (model.pt): it is kept and sent again"]
