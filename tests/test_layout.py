"""The names under which results are found, by later versions too."""

from zsad import layout


def test_names_on_disk_stay():
    assert (layout.RUN, layout.SUCCESS, layout.SUSPENDED_SUCCESS) == ("run.json", "_SUCCESS", "._SUCCESS-suspended")
    assert (layout.PREDICTIONS, layout.ANOMALY_MAPS, layout.LOCK_HOLDER) == (
        "predictions",
        "anomaly_maps",
        ".lock.json",
    )
    assert (layout.REPORT_MARK, layout.REPORT_OF) == ("report.json", "report_of")
    assert (layout.EXPORT_MARK, layout.EXPORT_FORMAT, layout.EXPORT_FINGERPRINT) == (
        "export.json",
        "format",
        "fingerprint",
    )
    assert layout.EXPLAINED == "-explained.png"
