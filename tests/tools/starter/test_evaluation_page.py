"""The page of the evaluation: its own command, and every figure in its place."""

from tools.starter.evaluation import Family, Localisation, Report
from tools.starter.evaluation_page import to_markdown
from tools.starter.presence import PresenceReport, Reliability

MAPS = Localisation(
    pointing=0.75,
    overlap=0.5,
    overlap_at_mean=0.25,
    absent=0.125,
    pairs=1234,
    area=0.0625,
    pointing_error=0.02,
    overlap_error=0.012,
    absent_error=0.03,
)


def measured(brier: float, calibration_error: float, mean: float = 0.5) -> Reliability:
    return Reliability(brier, calibration_error, right=0.9375, mean=mean, pairs=1800)


REPORT = Report(
    scenes=40,
    families={
        "OpenMoji": Family(
            part="unseen",
            concepts=288,
            drawings=300,
            recognition=0.7,
            recognition_error=0.04,
            heatmaps=MAPS,
            presence=PresenceReport(
                overall=measured(0.06, 0.05),
                by_stickers={1: measured(0.01, 0.02, 0.51), 4: measured(0.11, 0.12, 0.41)},
                rare=measured(0.21, 0.22),
                rare_corrected=measured(0.03, 0.04),
            ),
        )
    },
    methods={"LeGrad, last block": MAPS},
)


def test_the_page_tells_the_command_that_makes_it() -> None:
    page = to_markdown(REPORT)

    assert "`python -m tools.starter evaluate --scenes 40`" in page
    assert "over 40 composed scenes" in page
    assert page.endswith("|\n")


def test_every_share_has_its_standard_error() -> None:
    row = "70.0% ± 4.0% | 75.0% ± 2.0% | 0.500 ± 0.012 | 12.5% ± 3.0% |"

    assert f"| OpenMoji (unseen) | 300 of 288 | {row}" in to_markdown(REPORT)


def test_presence_is_told_by_stickers_and_among_rarer_things() -> None:
    page = to_markdown(REPORT)

    assert "| OpenMoji | 0.050 | 0.060 | 93.8% |" in page
    assert "| OpenMoji | 1 | 1,800 | 0.020 | 0.010 | 51.0% |" in page
    assert "| OpenMoji | 4 | 1,800 | 0.120 | 0.110 | 41.0% |" in page
    assert "weighted so that 10% are shown" in page
    assert "| OpenMoji | 0.220 | 0.040 | 0.210 | 0.030 |" in page


def test_other_methods_have_a_table_of_their_own() -> None:
    page = to_markdown(REPORT)

    assert "1,234 prompts; a\nsticker covers 6.2% of its picture" in page
    assert "| LeGrad, last block | 75.0% | 0.500 | 0.250 | 12.5% |" in page
