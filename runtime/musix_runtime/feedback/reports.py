"""Reports of monitoring: what `musix monitor` finds in the feedback database, as it is stored there and shown."""

from musix_runtime.models.features import AUDIO_NAMES
from musix_runtime.schemas import Response

DRIFT_INPUTS = (*AUDIO_NAMES, "genre", "mood")
NO_VARIANT = "none"
VARIANTS = (NO_VARIANT, "control", "treatment")
FIGURES = ("precision", "skip_rate", "save_rate", "repeat_rate", "session_tracks")
DRIFT, CALIBRATION, SKIP_RATE, EMERGENCY = ALARM_KINDS = ("drift", "calibration", "skip_rate", "emergency")


class Window(Response, frozen=True):
    """The time from `from_ms` to before `until_ms`, in ms since 1970, and what the listeners of the bundle played in
    it: those to whom the bundle showed a list in that time. Tracks that the catalogue does not have do not count."""

    from_ms: int
    until_ms: int
    listeners: int  # who played a track
    plays: int
    unknown_plays: int  # of tracks that are not in the catalogue


class InputDrift(Response, frozen=True):
    """How far the live distribution of an input differs from the reference. All are null with too few listeners."""

    kl: float | None  # KL divergence of live from reference in nats, without the bias of a small sample
    low: float | None  # with a probability of 95 %, the KL divergences of all inputs are above these
    wasserstein: float | None  # distance in standard deviations of the reference; null if the input is no quantity


class CalibrationDrift(Response, frozen=True):
    """How far the scores are from what happened, after the reference has told what each score means.

    `error` is the expected calibration error without the bias of a small sample. It is above `low` with a probability
    of 95 %. Both are null with too few listeners in either window.
    """

    error: float | None
    low: float | None
    listeners: int  # of the live window, who played or skipped a track that was shown
    tracks: int


class Figure(Response, frozen=True):
    """A figure of the live window, and its interval of 95 % over listeners."""

    value: float
    low: float
    high: float


class LiveFigures(Response, frozen=True):
    """Figures of the lists that were shown in the live window. A figure without data is null."""

    listeners: int
    lists: int
    coverage: float  # share of the catalogue that was shown
    precision: Figure | None  # share of the first ten tracks of a list that were played and not skipped
    skip_rate: Figure | None
    save_rate: Figure | None
    repeat_rate: Figure | None
    session_tracks: Figure | None


class Shares(Response, frozen=True):
    """Shares of genres and moods; each listener weighs the same, and so do the genres of a track."""

    genres: dict[str, float]
    moods: dict[str, float]


class Alarm(Response, frozen=True):
    """Something to look at: its key, one of `ALARM_KINDS` or `drift/INPUT`, and a sentence."""

    key: str
    sentence: str

    @property
    def kind(self) -> str:
        """The part of the key that is one of `ALARM_KINDS`."""
        return self.key.partition("/")[0]


class Report(Response, frozen=True):
    """What listeners did with the live bundle, beside what they did when it was new.

    `bundles` are the figures by version, of all versions that answered in the live window; `variants` those by variant.
    """

    name: str
    version: str
    time_ms: int  # since 1970
    reference: Window
    live: Window
    drift: dict[str, InputDrift]
    calibration: CalibrationDrift
    bundles: dict[str, LiveFigures]
    variants: dict[str, LiveFigures]
    shown: Shares
    played: Shares
    alarms: list[Alarm]

    def age_s(self, now_ms: int) -> float:
        """Return the seconds since the report; none, while the clock of the machine that made it is ahead."""
        return max(0, now_ms - self.time_ms) / 1000


class MonitoringResponse(Response, frozen=True):
    """The latest report, and its age."""

    age_seconds: float
    report: Report
